//! One configuration file: read twice, once into the caller's type (which knows what is right and where it is wrong)
//! and once as a tree (which knows what was written and what is only a default).

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_saphyr::{Options, PropertySyntax};

use crate::error::ConfigError;
use crate::file;
use crate::sections;
use crate::sources::Environment;
use crate::tree;

/// What one file says.
pub(crate) struct Layer<T> {
    /// With defaults where the file is silent.
    pub(crate) value: T,
    /// Only what is written, without the sections of other programs.
    pub(crate) written: Value,
}

/// Reads `path`.
pub(crate) fn read<T: DeserializeOwned + Default>(
    path: &Path,
    own: &BTreeSet<String>,
    environment: &Environment,
) -> Result<Layer<T>, ConfigError> {
    let text = file::read(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?
        .ok_or_else(|| ConfigError::TooLarge { path: path.to_owned(), limit: file::FILE_BYTES_MAX })?;
    parse(&text, own, environment).map_err(|wrong| located(path, &wrong))
}

/// Why a file cannot be used, and which key is to blame where that is known.
struct Wrong {
    error: Box<serde_saphyr::Error>,
    key: Option<String>,
}

impl From<serde_saphyr::Error> for Wrong {
    fn from(error: serde_saphyr::Error) -> Self {
        Self { error: Box::new(error), key: None }
    }
}

fn parse<T: DeserializeOwned + Default>(
    text: &str,
    own: &BTreeSet<String>,
    environment: &Environment,
) -> Result<Layer<T>, Wrong> {
    let text = sections::own_part(text, own)?;
    let written: Value = serde_saphyr::from_str_with_options(&text, options(environment))?;
    if written.is_null() {
        return Ok(Layer { value: T::default(), written });
    }
    match serde_saphyr::from_str_with_options(&text, options(environment)) {
        Ok(value) => Ok(Layer { value, written }),
        Err(error) => Err(Wrong { error: Box::new(error), key: misfit::<T>(&written) }),
    }
}

/// The key that is no part of a `T`, if it is exactly one: the parser names only its place.
fn misfit<T: DeserializeOwned>(written: &Value) -> Option<String> {
    let mut found = Vec::new();
    tree::leaves(written, "", &mut |path, value| {
        let mut alone = Value::Object(serde_json::Map::new());
        tree::set(&mut alone, path, value.clone());
        if serde_json::from_value::<T>(alone).is_err() {
            found.push(path.to_owned());
        }
    });
    found.pop().filter(|_| found.is_empty())
}

fn options(environment: &Environment) -> Options {
    let properties: HashMap<_, _> =
        environment.variables().map(|(name, value)| (name.clone(), value.clone())).collect();
    // Also inside of quotes, where the default syntax would leave `${NAME}` as it is.
    serde_saphyr::options! { property_syntax: PropertySyntax::DockerCompose, with_snippet: false }
        .with_properties(properties)
}

fn located(path: &Path, wrong: &Wrong) -> ConfigError {
    let error = &wrong.error;
    let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
    let text = error.render_with_formatter(&serde_saphyr::UserMessageFormatter);
    let message = match &wrong.key {
        Some(key) => format!("{key}: {text}"),
        None => text,
    };
    ConfigError::File { path: path.to_owned(), line, column, message }
}

/// `text` of an environment variable as a value that is not a string, if it can be one.
pub(crate) fn scalar(text: &str) -> Option<Value> {
    serde_saphyr::from_str(text).ok()
}
