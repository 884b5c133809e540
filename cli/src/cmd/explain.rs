//! `explain`: why a runner is where it is, or why it still waits.

use std::process::ExitCode;

use serde::Serialize;
use stratavore_proto::v1::{ExplainRunnerRequest, ExplainRunnerResponse};

use super::{App, OK};
use crate::args::{Output, RunnerArg};
use crate::client;
use crate::errors::Result;
use crate::filter;
use crate::view;
use crate::view::json::{self, Object};
use crate::view::runner::RunnerJson;
use crate::view::style::{BAD, GOOD};
use crate::view::table::{Cell, Table, stdout_columns};

#[derive(Debug, Serialize)]
struct ExplanationJson {
    runner: RunnerJson,
    summary: String,
    queue_position: u32,
    hosts: Vec<VerdictJson>,
}

#[derive(Debug, Serialize)]
struct VerdictJson {
    host: String,
    feasible: bool,
    score: i64,
    reasons: Vec<String>,
}

/// Prints the explanation.
///
/// # Errors
/// An unknown runner, or the cluster's refusal.
pub(crate) async fn run(app: &App, args: RunnerArg) -> Result<ExitCode> {
    let answer = app
        .client()?
        .read(&format!("explain {}", args.runner), async |channel| {
            client::runners(channel)
                .explain_runner(ExplainRunnerRequest { runner: args.runner.clone() })
                .await
        })
        .await?;
    match app.output() {
        Output::Json => json::print(&Object::new("Explanation", explanation(&answer)))?,
        Output::Table => view::print(&text(&answer))?,
    }
    OK
}

fn explanation(answer: &ExplainRunnerResponse) -> ExplanationJson {
    ExplanationJson {
        runner: RunnerJson::from(&answer.runner.clone().unwrap_or_default()),
        summary: answer.summary.clone(),
        queue_position: answer.queue_position,
        hosts: answer
            .hosts
            .iter()
            .map(|verdict| VerdictJson {
                host: verdict.host.clone(),
                feasible: verdict.feasible,
                score: verdict.score,
                reasons: verdict.reasons.clone(),
            })
            .collect(),
    }
}

fn text(answer: &ExplainRunnerResponse) -> String {
    let runner = answer.runner.clone().unwrap_or_default();
    let state = view::runner::state_word(runner.state());
    let mut text = format!("{} ({}) is {state}: {}", runner.name, runner.id, answer.summary);
    if answer.queue_position > 0 {
        text.push_str(&format!(" (number {} in the queue)", answer.queue_position));
    }
    let mut text = filter::one_line(&text) + "\n";
    if answer.hosts.is_empty() {
        return text;
    }
    let mut table = Table::new(&["HOST", "FITS", "SCORE", "BECAUSE"]);
    for verdict in &answer.hosts {
        let fits = if verdict.feasible { Cell::styled(GOOD, "yes") } else { Cell::styled(BAD, "no") };
        let score = if verdict.feasible { verdict.score.to_string() } else { "-".to_owned() };
        table.row(vec![verdict.host.as_str().into(), fits, score.into(), verdict.reasons.join("; ").into()]);
    }
    text.push('\n');
    text.push_str(&table.render(stdout_columns()));
    text
}

#[cfg(test)]
mod tests {
    use stratavore_proto::v1::{HostVerdict, Runner};

    use super::*;

    #[test]
    fn an_explanation_as_json() {
        let answer = ExplainRunnerResponse {
            runner: Some(Runner { id: "r".to_owned(), ..Default::default() }),
            summary: "no host fits".to_owned(),
            hosts: vec![HostVerdict {
                host: "alpha".to_owned(),
                feasible: false,
                reasons: vec!["cordoned".to_owned()],
                score: 0,
            }],
            queue_position: 2,
        };
        let text = serde_json::to_string(&Object::new("Explanation", explanation(&answer))).unwrap();
        assert!(
            text.starts_with(r#"{"apiVersion":"stratavore.v1","kind":"Explanation","runner":{"id":"r","#),
            "{text}"
        );
        assert!(
            text.ends_with(
                r#""summary":"no host fits","queue_position":2,"hosts":[{"host":"alpha","feasible":false,"score":0,"reasons":["cordoned"]}]}"#
            ),
            "{text}"
        );
    }
}
