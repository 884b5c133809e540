//! Where the programs under test are.

use std::path::{Path, PathBuf};

/// Overrides the directory, e.g. for a private copy that another user may execute.
pub const DIRECTORY_VARIABLE: &str = "STRATAVORE_CHAOS_BIN_DIR";

/// The four programs, all in one directory.
#[derive(Clone, Debug)]
pub struct Binaries {
    directory: PathBuf,
}

impl Binaries {
    /// Those beside the running test or benchmark (so: of the same profile), or in [`DIRECTORY_VARIABLE`].
    ///
    /// # Panics
    /// When one is missing; the message has the command that builds it.
    #[must_use]
    pub fn locate() -> Self {
        let directory = std::env::var_os(DIRECTORY_VARIABLE).map_or_else(beside_this_program, PathBuf::from);
        let found = Self { directory };
        for program in ["stratavored", "stratavore-agent", "stratavore", "stratavore-probe"] {
            let path = found.directory.join(program);
            assert!(
                path.exists(),
                "{} is missing; build it first: cargo build{} -p stratavore-node -p stratavore-agent -p stratavore-cli \
                 -p stratavore-chaos --bins",
                path.display(),
                if found.directory.ends_with("release") { " --release" } else { "" },
            );
        }
        found
    }

    /// The directory that holds all of them.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Control-plane node.
    #[must_use]
    pub fn node(&self) -> PathBuf {
        self.directory.join("stratavored")
    }

    /// Agent.
    #[must_use]
    pub fn agent(&self) -> PathBuf {
        self.directory.join("stratavore-agent")
    }

    /// Command line.
    #[must_use]
    pub fn cli(&self) -> PathBuf {
        self.directory.join("stratavore")
    }

    /// Faults and benchmarks.
    #[must_use]
    pub fn chaos(&self) -> PathBuf {
        self.directory.join("stratavore-chaos")
    }

    /// Child programs of the tests.
    #[must_use]
    pub fn probe(&self) -> PathBuf {
        self.directory.join("stratavore-probe")
    }
}

/// `target/<profile>`: test executables lie one level deeper, in `deps`.
fn beside_this_program() -> PathBuf {
    let program = std::env::current_exe().expect("the path of the running program");
    let directory = program.parent().expect("a program lies in a directory");
    let directory =
        if directory.ends_with("deps") { directory.parent().expect("deps has a parent") } else { directory };
    directory.to_path_buf()
}
