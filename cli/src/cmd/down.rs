//! `down`: stops the cluster of this machine and everything it runs.

use std::process::ExitCode;

use super::{App, OK};
use crate::args::DownArgs;
use crate::errors::Result;
use crate::local::record::Record;
use crate::local::{Layout, stop};
use crate::view;

/// Stops, and with `--purge` forgets.
///
/// # Errors
/// What could not be stopped or removed.
pub(crate) async fn run(app: &App, args: DownArgs) -> Result<ExitCode> {
    let layout = Layout::of_user()?;
    if !layout.root().exists() {
        if args.purge {
            stop::purge(&app.globals, &layout)?;
        }
        view::tell("there is no local cluster");
        return OK;
    }
    let lock = layout.lock()?;
    match Record::load(&layout) {
        Ok(Some(mut record)) => {
            stop::stop_all(&app.globals, &layout, &mut record, 0).await?;
            view::tell("the local cluster is down");
        }
        Ok(None) => view::tell("nothing of the local cluster runs"),
        // An unreadable record must not keep anybody from getting rid of it.
        Err(failure) if args.purge => view::tell(failure.render().trim_end()),
        Err(failure) => return Err(failure),
    }
    if args.purge {
        stop::purge(&app.globals, &layout)?;
        view::tell("its data and its context are removed");
    }
    drop(lock);
    OK
}
