//! Putting the layers together, and knowing afterwards which one a value came from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::ConfigError;
use crate::sections::is_foreign;
use crate::sources::{Environment, Flag, Sources};
use crate::{tree, yaml};

/// Which layer a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    File(PathBuf),
    Variable(String),
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Variable(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// A configuration with the origin of each value.
#[derive(Debug, Clone)]
pub struct Loaded<T> {
    pub value: T,
    /// The files that were read, the weakest first.
    pub files: Vec<PathBuf>,
    tree: Value,
    origins: BTreeMap<String, Origin>,
}

/// One line of `config show`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Dotted.
    pub path: String,
    /// JSON; `"..."` for a secret.
    pub value: String,
    pub origin: Origin,
}

impl<T> Loaded<T> {
    /// Where the value at the dotted `path` came from.
    #[must_use]
    pub fn origin(&self, path: &str) -> &Origin {
        self.origins.get(path).unwrap_or(&Origin::Default)
    }

    /// Every value, by path. Secrets are masked: keys that end in `password`, `secret`, `token` or `key`.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        tree::leaves(&self.tree, "", &mut |path, value| {
            let value =
                if is_secret(path) && !value.is_null() { "\"...\"".to_owned() } else { value.to_string() };
            rows.push(Row { path: path.to_owned(), value, origin: self.origin(path).clone() });
        });
        rows
    }

    /// One line for each value, with `# origin` behind it if wanted.
    #[must_use]
    pub fn show(&self, with_source: bool) -> String {
        let rows = self.rows();
        let texts: Vec<_> = rows.iter().map(|row| format!("{} = {}", row.path, row.value)).collect();
        let width = texts.iter().map(String::len).max().unwrap_or(0);
        let line = |(text, row): (&String, &Row)| match with_source {
            true => format!("{text:width$}  # {}\n", row.origin),
            false => format!("{text}\n"),
        };
        texts.iter().zip(&rows).map(line).collect()
    }
}

fn is_secret(path: &str) -> bool {
    ["password", "secret", "token", "key"].iter().any(|end| path.ends_with(end))
}

/// Puts the layers of `sources` together.
///
/// # Errors
/// [`ConfigError`] for the first thing that is wrong, with its place.
pub fn load<T: DeserializeOwned + Serialize + Default>(sources: Sources) -> Result<Loaded<T>, ConfigError> {
    let mut layers: Layers<T> = Layers::of_defaults()?;
    for (path, required) in sources.files() {
        if path.exists() {
            layers.add_file(path, &sources.environment)?;
        } else if required {
            return Err(ConfigError::Missing { path: path.to_owned() });
        }
    }
    layers.add_variables(&sources.environment)?;
    for flag in sources.flags {
        layers.add_flag(flag)?;
    }
    layers.finish()
}

struct Layers<T> {
    defaults: Value,
    tree: Value,
    origins: BTreeMap<String, Origin>,
    files: Vec<PathBuf>,
    value: std::marker::PhantomData<T>,
}

impl<T: DeserializeOwned + Serialize + Default> Layers<T> {
    fn of_defaults() -> Result<Self, ConfigError> {
        let defaults = serde_json::to_value(T::default())?;
        let tree = defaults.clone();
        Ok(Self {
            defaults,
            tree,
            origins: BTreeMap::new(),
            files: Vec::new(),
            value: std::marker::PhantomData,
        })
    }

    fn add_file(&mut self, path: &Path, environment: &Environment) -> Result<(), ConfigError> {
        let own = tree::sections(&self.defaults);
        let layer = yaml::read::<T>(path, &own, environment)?;
        // The typed reading decides what a value is ("007" stays text), the written one which values there are.
        let typed = serde_json::to_value(layer.value)?;
        let mut found = Vec::new();
        tree::leaves(&layer.written, "", &mut |path, written| {
            // An empty file is a null without a path.
            if !path.is_empty() {
                found.push((path.to_owned(), tree::get(&typed, path).unwrap_or(written).clone()));
            }
        });
        for (key, value) in found {
            self.put(key, value, Origin::File(path.to_owned()));
        }
        self.files.push(path.to_owned());
        Ok(())
    }

    fn add_variables(&mut self, environment: &Environment) -> Result<(), ConfigError> {
        let own = tree::sections(&self.defaults);
        for (name, path, text) in environment.overrides() {
            if is_foreign(tree::section_of(&path), &own) {
                continue;
            }
            let value = self.variable(&path, text).map_err(|message| ConfigError::Variable {
                name: name.to_owned(),
                message: if is_secret(&path) { "it is not of the right kind".to_owned() } else { message },
            })?;
            self.put(path, value, Origin::Variable(name.to_owned()));
        }
        Ok(())
    }

    /// `text` as a string where the default is one; elsewhere as the number, truth value or list it spells, or else as
    /// a string after all.
    fn variable(&self, path: &str, text: &str) -> Result<Value, String> {
        let string = Value::String(text.to_owned());
        if tree::get(&self.defaults, path).is_some_and(Value::is_string) {
            return self.fits(path, string);
        }
        let scalar = yaml::scalar(text).unwrap_or_else(|| string.clone());
        self.fits(path, scalar).or_else(|error| self.fits(path, string).map_err(|_| error))
    }

    fn add_flag(&mut self, flag: Flag) -> Result<(), ConfigError> {
        let value = flag
            .value
            .and_then(|value| self.fits(flag.path, value))
            .map_err(|message| ConfigError::Flag { name: flag.name.to_owned(), message })?;
        self.put(flag.path.to_owned(), value, Origin::Flag(flag.name));
        Ok(())
    }

    /// `value` if the defaults with it at `path` are still a `T`.
    fn fits(&self, path: &str, value: Value) -> Result<Value, String> {
        let mut trial = self.defaults.clone();
        tree::set(&mut trial, path, value.clone());
        serde_json::from_value::<T>(trial).map(|_| value).map_err(|error| error.to_string())
    }

    fn put(&mut self, path: String, value: Value, origin: Origin) {
        // A weaker layer may have said something inside of what is now replaced.
        let inside = format!("{path}.");
        self.origins.retain(|known, _| !known.starts_with(&inside));
        tree::leaves(&value, &path, &mut |leaf, _| {
            self.origins.insert(leaf.to_owned(), origin.clone());
        });
        tree::set(&mut self.tree, &path, value);
    }

    fn finish(self) -> Result<Loaded<T>, ConfigError> {
        let value = serde_json::from_value(self.tree.clone())?;
        Ok(Loaded { value, files: self.files, tree: self.tree, origins: self.origins })
    }
}
