//! How the two databases are opened. Options, names of column families, and RocksDB's errors as ours.

use std::io;
use std::path::{Path, PathBuf};

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, DB, DBCompressionType, DBRecoveryMode, ErrorKind, LogLevel,
    Options,
};

use crate::error::OpenError;

/// Format of both databases. A node that finds a higher one opens nothing (P22).
pub(crate) const FORMAT: u32 = 1;

pub(crate) const LOGS: &str = "logs";
pub(crate) const META: &str = "meta";
pub(crate) const ROWS: &str = "rows";
pub(crate) const EVENTS: &str = "events";
pub(crate) const RUNNER_EVENTS: &str = "runner_events";

const LOG_FAMILIES: [&str; 2] = [LOGS, META];
pub(crate) const STATE_FAMILIES: [&str; 4] = [ROWS, EVENTS, RUNNER_EVENTS, META];

/// Memtable per column family: the idle node must stay under 60 MiB, and a flush of this size takes
/// tens of milliseconds in the background.
const WRITE_BUFFER_BYTES: usize = 8 << 20;

/// Bound on WAL files kept for memtables that are not flushed yet, hence on replay at start.
const WAL_BYTES_MAX: u64 = 64 << 20;

/// Uncompressed blocks kept for reads; replication reads from the log's own cache.
const BLOCK_CACHE_BYTES: usize = 4 << 20;

/// Open table files; the log of 1 GiB has far fewer.
const OPEN_FILES_MAX: i32 = 256;

/// What to do with a write-ahead log that does not read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recovery {
    /// A part record at the very end is a crash; anything else is damage and refuses to open (P19).
    RefuseDamage,
    /// Keep the consistent prefix: for the state database, whose tail is re-applied from the log, and for
    /// `recover --accept-loss`.
    KeepPrefix,
}

fn options(create: bool, recovery: Recovery) -> Options {
    let mut options = Options::default();
    options.create_if_missing(create);
    options.create_missing_column_families(create);
    options.set_wal_recovery_mode(match recovery {
        Recovery::RefuseDamage => DBRecoveryMode::TolerateCorruptedTailRecords,
        Recovery::KeepPrefix => DBRecoveryMode::PointInTime,
    });
    // A recycled file has old records behind its end, which the tolerant mode cannot tell from damage.
    options.set_recycle_log_file_num(0);
    options.set_paranoid_checks(true);
    options.set_use_fsync(false);
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    options.set_max_total_wal_size(WAL_BYTES_MAX);
    options.set_max_open_files(OPEN_FILES_MAX);
    options.set_max_background_jobs(2);
    options.set_keep_log_file_num(2);
    options.set_log_level(LogLevel::Warn);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options
}

fn family_options(compression: DBCompressionType, cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_compression_type(compression);
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    options
}

fn open(path: &Path, families: &[&str], create: bool, recovery: Recovery) -> Result<DB, OpenError> {
    let cache = Cache::new_lru_cache(BLOCK_CACHE_BYTES);
    let compression =
        |name: &str| if name == LOGS { DBCompressionType::None } else { DBCompressionType::Lz4 };
    let families: Vec<(&str, Options)> =
        families.iter().map(|name| (*name, family_options(compression(name), &cache))).collect();
    DB::open_cf_with_opts(&options(create, recovery), path, families).map_err(|error| refused(path, &error))
}

/// Opens the log database.
pub(crate) fn open_log(path: &Path, create: bool, recovery: Recovery) -> Result<DB, OpenError> {
    open(path, &LOG_FAMILIES, create, recovery)
}

/// Opens a state database. Its write-ahead log is never synced: what a crash took is applied again.
pub(crate) fn open_state(path: &Path, create: bool) -> Result<DB, OpenError> {
    open(path, &STATE_FAMILIES, create, Recovery::KeepPrefix)
}

/// Opens a finished snapshot for reading.
pub(crate) fn open_snapshot(path: &Path) -> io::Result<DB> {
    DB::open_cf_for_read_only(&options(false, Recovery::KeepPrefix), path, STATE_FAMILIES, false)
        .map_err(to_io)
}

/// The handle of a column family that every database of that kind was opened with.
pub(crate) fn family<'db>(db: &'db DB, name: &str) -> io::Result<&'db ColumnFamily> {
    db.cf_handle(name).ok_or_else(|| io::Error::other(format!("column family {name} is not open")))
}

/// RocksDB's error with the operating system's kind where it can be told.
pub(crate) fn to_io(error: rocksdb::Error) -> io::Error {
    let kind = match error.kind() {
        ErrorKind::Corruption => io::ErrorKind::InvalidData,
        ErrorKind::NotFound => io::ErrorKind::NotFound,
        _ if error.as_ref().contains("No space left") => io::ErrorKind::StorageFull,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error.into_string())
}

fn refused(path: &Path, error: &rocksdb::Error) -> OpenError {
    let message = error.as_ref();
    if error.kind() == ErrorKind::Corruption {
        return corrupt(named_file(path, message), message);
    }
    if message.contains("LOCK") || message.contains("lock ") {
        return OpenError::Locked { dir: path.to_path_buf() };
    }
    if error.kind() == ErrorKind::InvalidArgument && message.contains("does not exist") {
        return corrupt(path.to_path_buf(), "the database is missing or incomplete");
    }
    OpenError::Io { path: path.to_path_buf(), source: to_io(error.clone()) }
}

/// The refusal that names the file and the way out.
pub(crate) fn corrupt(file: PathBuf, detail: impl Into<String>) -> OpenError {
    OpenError::Corrupt { file, detail: detail.into(), way_out: WAY_OUT.into() }
}

/// What a person can do about a damaged or shortened log.
pub(crate) const WAY_OUT: &str = "nothing was changed: restore the data directory from a copy; or, in a \
     cluster of one node, keep what is readable with `stratavored recover --accept-loss --data-dir DIR`; or, in a \
     larger cluster, remove this node and let it join again with an empty directory";

/// The file that the message names, else the newest write-ahead log of the directory, else the directory.
fn named_file(dir: &Path, message: &str) -> PathBuf {
    let is_name = |word: &&str| {
        [".log", ".sst", "CURRENT"].iter().any(|end| word.ends_with(end)) || word.contains("MANIFEST-")
    };
    let word = message.split(|c: char| c.is_whitespace() || c == ':' || c == ',').find(is_name);
    if let Some(name) = word.and_then(|word| Path::new(word).file_name()) {
        return dir.join(name);
    }
    newest_wal(dir).unwrap_or_else(|| dir.to_path_buf())
}

/// The write-ahead log with the highest number.
pub(crate) fn newest_wal(dir: &Path) -> Option<PathBuf> {
    let files = std::fs::read_dir(dir).ok()?;
    files
        .filter_map(|file| Some(file.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .max()
}
