//! The HTTP port for machines that watch machines: `/metrics`, `/healthz`, `/readyz`. No TLS, so loopback by default.

use std::convert::Infallible;
use std::path::PathBuf;

use axum::Router;
use axum::extract::State as Extracted;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use stratavore_raft::{Handle, Role};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::link::hub::Hub;
use crate::metrics::Metrics;
use crate::quarantine::Quarantine;

/// Below this a database may fail at any write. What the reserve file holds is not counted as free.
const DISK_FREE_BYTES_MIN: u64 = 16 * 1024 * 1024;

/// What the probes look at.
#[derive(Clone)]
pub(crate) struct Probes {
    pub(crate) raft: Handle,
    pub(crate) hub: Hub,
    pub(crate) quarantine: Quarantine,
    pub(crate) data_dir: PathBuf,
    pub(crate) metrics: Metrics,
}

/// Serves until cancelled.
pub(crate) async fn serve(
    listener: TcpListener,
    probes: Probes,
    stop: CancellationToken,
) -> Result<(), std::io::Error> {
    let app = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(probes);
    axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn metrics(Extracted(probes): Extracted<Probes>) -> Response {
    match probes.metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// The process answers; nothing else is claimed.
async fn healthz() -> Result<Response, Infallible> {
    Ok(answer(StatusCode::OK, &json!({"status": "ok", "version": env!("CARGO_PKG_VERSION")})))
}

/// Ready = what was committed is applied, a leader is known, the state is the majority's, and the disk takes writes.
async fn readyz(Extracted(probes): Extracted<Probes>) -> Response {
    let components = [
        ("raft", probes.raft_component()),
        ("state", probes.state()),
        ("disk", probes.disk()),
        ("link", probes.link()),
    ];
    let ready = components.iter().all(|(_, component)| component.ok);
    let shown: serde_json::Map<String, Value> = components
        .into_iter()
        .map(|(name, component)| (name.to_owned(), json!({"ok": component.ok, "detail": component.detail})))
        .collect();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    answer(status, &json!({"ready": ready, "components": shown}))
}

fn answer(status: StatusCode, body: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}

struct Component {
    ok: bool,
    detail: String,
}

impl Probes {
    fn raft_component(&self) -> Component {
        let figures = self.raft.metrics();
        let led = figures.leader.is_some() && figures.role != Role::Stopped;
        let detail = format!(
            "{}, term {}, applied {} of {}",
            figures.role.as_str(),
            figures.term,
            figures.last_applied,
            figures.committed
        );
        Component { ok: led, detail }
    }

    /// P24.
    fn state(&self) -> Component {
        match self.quarantine.why() {
            None => Component { ok: true, detail: "as the majority's, as far as compared".to_owned() },
            Some(why) => Component { ok: false, detail: format!("quarantined: {why}") },
        }
    }

    fn disk(&self) -> Component {
        match rustix::fs::statvfs(&self.data_dir) {
            Ok(figures) => {
                let free = figures.f_bavail.saturating_mul(figures.f_frsize);
                Component { ok: free >= DISK_FREE_BYTES_MIN, detail: format!("{} MiB free", free >> 20) }
            }
            Err(error) => Component { ok: false, detail: error.to_string() },
        }
    }

    fn link(&self) -> Component {
        Component { ok: true, detail: format!("{} agents connected", self.hub.len()) }
    }
}
