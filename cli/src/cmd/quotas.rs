//! `quotas` and `quotas set`.

use std::process::ExitCode;

use stratavore_proto::v1::SetQuotaRequest;

use super::{App, OK, projects};
use crate::args::{Quota, QuotasArgs, QuotasCommand};
use crate::client;
use crate::errors::Result;
use crate::view;

/// Shows the quotas, or changes one.
///
/// # Errors
/// The cluster's refusal.
pub(crate) async fn run(app: &App, args: QuotasArgs) -> Result<ExitCode> {
    let (project, value, request_id) = match args.command {
        None | Some(QuotasCommand::List) => {
            view::project::print_quotas(app.output(), &projects::list(app, "", false).await?)?;
            return OK;
        }
        Some(QuotasCommand::Set { project, quota: Quota::MaxRunners, value, request_id }) => {
            (project, value, request_id)
        }
    };
    let doing = format!("set the quota of {project}");
    let answer = app
        .client()?
        .mutate(&doing, request_id, async |channel, request_id| {
            let request = SetQuotaRequest { request_id, project: project.clone(), max_runners: value };
            client::projects(channel).set_quota(request).await
        })
        .await?;
    view::project::print_quotas(app.output(), &answer.project.into_iter().collect::<Vec<_>>())?;
    OK
}
