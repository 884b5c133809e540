//! `context`: the clusters this machine knows.

use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;
use stratavore_settings::context::{self, Context, ContextError, Contexts};

use super::{App, OK};
use crate::args::{ContextArgs, ContextCommand};
use crate::context::{Target, chain, contexts_file};
use crate::errors::{Exit, Failure, Result};
use crate::view;
use crate::view::style::GOOD;
use crate::view::table::{Cell, Table};

#[derive(Debug, Serialize)]
struct ContextJson {
    name: String,
    current: bool,
    cluster_id: String,
    user: String,
    endpoints: Vec<String>,
}

/// Lists, chooses or adds.
///
/// # Errors
/// An unreadable file, or an unknown or doubled name.
pub(crate) fn run(app: &App, args: ContextArgs) -> Result<ExitCode> {
    let file = contexts_file(&app.globals)?;
    match args.command {
        None | Some(ContextCommand::List) => list(app, &file)?,
        Some(ContextCommand::Use { name }) => {
            Contexts::edit(&file, |contexts| contexts.use_context(&name)).map_err(|error| failed(&error))?;
            view::tell(&format!("{name} is the current context"));
        }
        Some(ContextCommand::Add { name, from, replace, keep_current }) => {
            let context = read_single(&from)?;
            add(&file, &name, context, replace, !keep_current)?;
            view::tell(&format!("added context {name}"));
        }
    }
    OK
}

fn list(app: &App, file: &Path) -> Result<()> {
    let contexts = Contexts::load(file).map_err(|error| failed(&error))?;
    let current = contexts.current_context.clone();
    let items: Vec<ContextJson> = contexts
        .contexts
        .iter()
        .map(|(name, context)| ContextJson {
            name: name.clone(),
            current: current.as_deref() == Some(name),
            cluster_id: context.cluster_id.clone(),
            user: context.user.clone(),
            endpoints: context.endpoints.clone(),
        })
        .collect();
    let mut table = Table::new(&["", "CONTEXT", "CLUSTER", "USER", "ENDPOINTS"]);
    for item in &items {
        let mark = if item.current { Cell::styled(GOOD, "*") } else { "".into() };
        let (name, cluster) = (item.name.as_str().into(), item.cluster_id.as_str().into());
        table.row(vec![mark, name, cluster, item.user.as_str().into(), item.endpoints.join(",").into()]);
    }
    if items.is_empty() {
        view::tell("no contexts yet; next: stratavore up, or stratavore login");
    }
    view::list(app.output(), "ContextList", items, || table)
}

/// The one context of a file such as a node's admin.yaml.
///
/// # Errors
/// When the file holds none, or more than one without a current one.
pub(crate) fn read_single(file: &Path) -> Result<Context> {
    // A path always counts as a file, whatever its name.
    let path = std::path::absolute(file)?;
    let resolved = context::resolve(path.to_str(), &path).map_err(|error| failed(&error))?;
    // Certificates that do not belong together are refused now, not at the first call.
    Target::new(resolved.name, resolved.path, resolved.context.clone()).credentials()?;
    Ok(resolved.context)
}

/// Adds a context to the contexts file.
///
/// # Errors
/// A name that exists without `replace`, or an unwritable file.
pub(crate) fn add(
    file: &Path,
    name: &str,
    context: Context,
    replace: bool,
    make_current: bool,
) -> Result<()> {
    let mut exists = false;
    Contexts::edit(file, |contexts| {
        exists = contexts.contexts.contains_key(name);
        if exists && !replace { Ok(()) } else { contexts.put(name, context, make_current) }
    })
    .map_err(|error| failed(&error))?;
    if exists && !replace {
        return Err(Failure::new(Exit::Conflict, format!("there is a context {name} already"))
            .cause("a context holds a private key and is not overwritten unasked")
            .next("choose another name, or repeat with --replace"));
    }
    Ok(())
}

fn failed(error: &ContextError) -> Failure {
    let (exit, next) = match error {
        ContextError::Unknown { .. } | ContextError::MissingFile { .. } => {
            (Exit::NotFound, "stratavore context list")
        }
        ContextError::None | ContextError::NoCurrent { .. } => {
            (Exit::NotFound, "stratavore up, or stratavore login")
        }
        ContextError::Name { .. } => (Exit::Usage, "choose another name"),
        ContextError::Exposed { .. } => (Exit::Permission, "run the chmod above"),
        _ => (Exit::Generic, "repair or remove the file"),
    };
    Failure::new(exit, "cannot use the contexts").cause(chain(error)).next(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(user: &str) -> Context {
        Context {
            cluster_id: "0123456789abcdef".to_owned(),
            user: user.to_owned(),
            endpoints: vec!["a:1".to_owned()],
            ca: String::new(),
            certificate: String::new(),
            key: String::new(),
        }
    }

    #[test]
    fn a_context_is_not_overwritten_unasked() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("contexts.yaml");
        add(&file, "a", sample("x"), false, false).unwrap();
        assert_eq!(add(&file, "a", sample("y"), false, true).unwrap_err().exit(), Exit::Conflict);
        assert_eq!(Contexts::load(&file).unwrap().contexts["a"].user, "x");
        add(&file, "a", sample("y"), true, true).unwrap();
        assert_eq!(Contexts::load(&file).unwrap().contexts["a"].user, "y");
    }

    #[test]
    fn bad_names_and_missing_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("contexts.yaml");
        assert_eq!(add(&file, "A b", sample("x"), false, true).unwrap_err().exit(), Exit::Usage);
        assert_eq!(read_single(&dir.path().join("none")).unwrap_err().exit(), Exit::NotFound);
    }
}
