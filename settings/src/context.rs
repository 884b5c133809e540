//! Context files: which cluster to talk to, and as whom. One file for all contexts of a person, or one of its own
//! (`admin.yaml` of a new cluster); both have the same shape and mode 0600, because they hold private keys.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{file, write};

/// What can be wrong with contexts.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContextError {
    #[error("there is no context file {}", path.display())]
    MissingFile { path: PathBuf },
    #[error("cannot {action} the context file {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("the context file {} can be read by others (mode {mode:03o}); run: chmod 600 {}", path.display(), path.display())]
    Exposed { path: PathBuf, mode: u32 },
    #[error("the context file {} has more than {} bytes", path.display(), file::FILE_BYTES_MAX)]
    TooLarge { path: PathBuf },
    #[error("{}:{line}:{column}: {message}", path.display())]
    Malformed { path: PathBuf, line: u64, column: u64, message: String },
    #[error("cannot write a context file: {0}")]
    Shape(String),
    #[error("context name {name:?} is not valid: 1 to 63 of a-z, 0-9 and '-', not starting with '-'")]
    Name { name: String },
    #[error("there is no context {name:?}; {}", known_text(known))]
    Unknown { name: String, known: Vec<String> },
    #[error(
        "no context is set; start a cluster here with: stratavore up, or join one with: stratavore login"
    )]
    None,
    #[error("no context is current; {}, choose one with: stratavore context use NAME", known_text(known))]
    NoCurrent { known: Vec<String> },
}

fn known_text(known: &[String]) -> String {
    match known {
        [] => "there are none".to_owned(),
        known => format!("known: {}", known.join(", ")),
    }
}

/// One cluster and one identity in it. `Debug` masks the key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    pub cluster_id: String,
    pub user: String,
    /// HOST:PORT of the gRPC port of each node.
    pub endpoints: Vec<String>,
    /// PEM.
    pub ca: String,
    /// PEM.
    pub certificate: String,
    /// PEM.
    pub key: String,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("cluster_id", &self.cluster_id)
            .field("user", &self.user)
            .field("endpoints", &self.endpoints)
            .finish_non_exhaustive()
    }
}

/// The content of a context file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Contexts {
    pub current_context: Option<String>,
    pub contexts: BTreeMap<String, Context>,
}

impl Contexts {
    /// What is in `path`; empty when it is not there.
    ///
    /// # Errors
    /// [`ContextError::Exposed`], [`ContextError::Malformed`], [`ContextError::TooLarge`] or [`ContextError::Io`].
    pub fn load(path: &Path) -> Result<Self, ContextError> {
        match Self::load_existing(path) {
            Err(ContextError::MissingFile { .. }) => Ok(Self::default()),
            other => other,
        }
    }

    fn load_existing(path: &Path) -> Result<Self, ContextError> {
        let metadata = match std::fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ContextError::MissingFile { path: path.to_owned() });
            }
            Err(source) => return Err(ContextError::Io { action: "read", path: path.to_owned(), source }),
        };
        let mode = metadata.mode() & 0o777;
        if metadata.is_file() && mode & 0o077 != 0 {
            return Err(ContextError::Exposed { path: path.to_owned(), mode });
        }
        let text = file::read(path)
            .map_err(|source| ContextError::Io { action: "read", path: path.to_owned(), source })?
            .ok_or_else(|| ContextError::TooLarge { path: path.to_owned() })?;
        Self::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, ContextError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        // Without snippets: they would show lines of private keys.
        let options = serde_saphyr::options! { with_snippet: false };
        serde_saphyr::from_str_with_options(text, options).map_err(|error| {
            let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
            let message = error.render_with_formatter(&serde_saphyr::UserMessageFormatter);
            ContextError::Malformed { path: path.to_owned(), line, column, message }
        })
    }

    /// Replaces `path`, mode 0600, whole or not at all.
    ///
    /// # Errors
    /// [`ContextError::Io`] or [`ContextError::Shape`].
    pub fn save(&self, path: &Path) -> Result<(), ContextError> {
        let text = serde_saphyr::to_string(self).map_err(|error| ContextError::Shape(error.to_string()))?;
        write::replace_private(path, text.as_bytes()).map_err(|source| ContextError::Io {
            action: "write",
            path: path.to_owned(),
            source,
        })
    }

    /// Loads `path`, lets `change` work on it and saves it, while no other program does the same.
    ///
    /// # Errors
    /// Those of [`Contexts::load`], [`Contexts::save`] and `change`; after one of `change` nothing is saved.
    pub fn edit<R>(
        path: &Path,
        change: impl FnOnce(&mut Self) -> Result<R, ContextError>,
    ) -> Result<R, ContextError> {
        let failed = |source| ContextError::Io { action: "lock", path: path.to_owned(), source };
        let dir = write::directory_of(path);
        std::fs::create_dir_all(dir).map_err(failed)?;
        let lock = File::create(dir.join(".contexts.lock")).map_err(failed)?;
        lock.lock().map_err(failed)?;
        let mut contexts = Self::load(path)?;
        let result = change(&mut contexts)?;
        contexts.save(path)?;
        Ok(result)
    }

    /// The named context; without a name the current one, or the only one.
    ///
    /// # Errors
    /// [`ContextError::Unknown`], [`ContextError::NoCurrent`] or [`ContextError::None`].
    pub fn get(&self, name: Option<&str>) -> Result<(&str, &Context), ContextError> {
        let wanted = name.or(self.current_context.as_deref());
        match (wanted, self.contexts.iter().next()) {
            (None, None) => Err(ContextError::None),
            (None, Some((name, context))) if self.contexts.len() == 1 => Ok((name, context)),
            (None, Some(_)) => Err(ContextError::NoCurrent { known: self.names() }),
            (Some(wanted), _) => self
                .contexts
                .get_key_value(wanted)
                .map(|(name, context)| (name.as_str(), context))
                .ok_or_else(|| ContextError::Unknown { name: wanted.to_owned(), known: self.names() }),
        }
    }

    /// All names, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.contexts.keys().cloned().collect()
    }

    /// Adds or replaces a context.
    ///
    /// # Errors
    /// [`ContextError::Name`].
    pub fn put(&mut self, name: &str, context: Context, make_current: bool) -> Result<(), ContextError> {
        if !is_name(name) {
            return Err(ContextError::Name { name: name.chars().take(80).collect() });
        }
        self.contexts.insert(name.to_owned(), context);
        if make_current || self.current_context.is_none() {
            self.current_context = Some(name.to_owned());
        }
        Ok(())
    }

    /// Makes a context the current one.
    ///
    /// # Errors
    /// [`ContextError::Unknown`].
    pub fn use_context(&mut self, name: &str) -> Result<(), ContextError> {
        self.get(Some(name))?;
        self.current_context = Some(name.to_owned());
        Ok(())
    }

    /// Removes a context; afterwards none is current if it was. False when there was none of that name.
    pub fn remove(&mut self, name: &str) -> bool {
        if self.current_context.as_deref() == Some(name) {
            self.current_context = None;
        }
        self.contexts.remove(name).is_some()
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 63
        && !text.starts_with('-')
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// A context and where it is kept.
#[derive(Debug, Clone)]
pub struct Resolved {
    pub name: String,
    pub context: Context,
    pub path: PathBuf,
}

/// What `--context` means: a file if `wanted` holds `/` or ends in `.yaml`, else a name in `contexts_file`; without it
/// the current context there.
///
/// # Errors
/// As [`Contexts::load`] and [`Contexts::get`]; [`ContextError::MissingFile`] for a named file only.
pub fn resolve(wanted: Option<&str>, contexts_file: &Path) -> Result<Resolved, ContextError> {
    let is_file = wanted.is_some_and(|wanted| wanted.contains('/') || wanted.ends_with(".yaml"));
    let (path, contexts, name) = match wanted {
        Some(file) if is_file => (Path::new(file), Contexts::load_existing(Path::new(file))?, None),
        name => (contexts_file, Contexts::load(contexts_file)?, name),
    };
    let (name, context) = contexts.get(name)?;
    Ok(Resolved { name: name.to_owned(), context: context.clone(), path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn context(user: &str) -> Context {
        let pem = |label: &str| format!("-----BEGIN {label}-----\nMIIB+/==\n=\n-----END {label}-----\n");
        Context {
            cluster_id: "0123456789abcdef".to_owned(),
            user: user.to_owned(),
            endpoints: vec!["127.0.0.1:50051".to_owned(), "[::1]:50061".to_owned()],
            ca: pem("CERTIFICATE"),
            certificate: pem("CERTIFICATE"),
            key: pem("PRIVATE KEY"),
        }
    }

    #[test]
    fn files_round_trip_privately() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/contexts.yaml");
        assert_eq!(Contexts::load(&path).unwrap(), Contexts::default());
        Contexts::edit(&path, |contexts| {
            contexts.put("local", context("admin"), true)?;
            contexts.put("work", context("alice"), false)
        })
        .unwrap();
        let contexts = Contexts::load(&path).unwrap();
        assert_eq!(contexts.get(None).unwrap(), ("local", &context("admin")));
        assert_eq!(contexts.get(Some("work")).unwrap().1, &context("alice"));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Contexts::load(&path), Err(ContextError::Exposed { mode: 0o644, .. })));
    }

    #[test]
    fn a_path_or_a_yaml_name_is_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let (all, single) = (dir.path().join("contexts.yaml"), dir.path().join("admin.yaml"));
        let mut contexts = Contexts::default();
        contexts.put("only", context("root"), false).unwrap();
        contexts.save(&single).unwrap();
        assert!(matches!(resolve(None, &all), Err(ContextError::None)));
        let found = resolve(single.to_str(), &all).unwrap();
        assert_eq!((found.name.as_str(), found.context.user.as_str(), found.path), ("only", "root", single));
        assert!(matches!(resolve(Some("none.yaml"), &all), Err(ContextError::MissingFile { .. })));
        assert!(matches!(resolve(Some("none"), &all), Err(ContextError::Unknown { .. })));
    }

    #[test]
    fn current_is_what_was_chosen_and_mistakes_are_named() {
        let mut contexts = Contexts::default();
        contexts.put("a", context("a"), false).unwrap();
        contexts.put("b", context("b"), false).unwrap();
        assert_eq!(contexts.get(None).unwrap().0, "a");
        contexts.use_context("b").unwrap();
        assert_eq!(contexts.get(None).unwrap().0, "b");
        let error = contexts.use_context("c").unwrap_err().to_string();
        assert!(error.contains("known: a, b"), "{error}");
        assert!(contexts.remove("b"));
        contexts.put("c", context("c"), false).unwrap();
        contexts.current_context = None;
        assert!(matches!(contexts.get(None), Err(ContextError::NoCurrent { .. })));
        assert!(matches!(contexts.put("A/b", context("x"), false), Err(ContextError::Name { .. })));
    }

    #[test]
    fn broken_files_are_located_and_keys_never_shown() {
        let path = Path::new("contexts.yaml");
        let error =
            Contexts::parse("contexts:\n  a:\n    key: SECRETSECRET\n    nope: 1\n", path).unwrap_err();
        let text = format!("{error} {error:?} {:?}", context("a"));
        assert!(text.starts_with("contexts.yaml:4:5: "), "{text}");
        assert!(!text.contains("SECRETSECRET") && !text.contains("MIIB"), "{text}");
        assert_eq!(Contexts::parse(" \n", path).unwrap(), Contexts::default());
    }
}
