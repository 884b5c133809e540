//! `cluster export`: the whole replicated state at one applied index, for people and for comparing nodes. What could be
//! used to act is left out, so it is no backup.

use bytes::{BufMut, Bytes, BytesMut};
use data_encoding::HEXLOWER;
use serde_json::{Map, Value};
use stratavore_model::{Row, State, Table};
use stratavore_proto::v1::ExportStateResponse;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::api::status::ApiError;
use crate::api::{Api, STREAM_QUEUE};
use crate::tasks::TaskKind;

/// Of one message: far below what any client takes, large enough to cost few.
const CHUNK_BYTES: usize = 256 * 1024;

/// Fields that nobody is shown: the signing key, what tokens are checked against, and what commands are given to work
/// with. Of the last only the names stand.
const SECRETS: [&str; 3] = ["ca_key_der", "secret_sha256", "env"];

/// Fields of bytes, which read better as hexadecimal digits.
const BYTES: [&str; 4] = ["ca_cert_der", "spki", "nonce", "payload"];

type Item = Result<ExportStateResponse, Status>;

/// The state at one index.
struct Export {
    index: u64,
    head: Value,
    rows: Vec<Row>,
}

impl Api {
    /// Starts an export of the state at `at`, 0 = as it is now.
    ///
    /// # Errors
    /// When the state here is at another index, or, where the newest is asked for, the leader does not confirm.
    pub(super) async fn export(&self, at: u64) -> Result<ReceiverStream<Item>, ApiError> {
        // What was applied at an index is the same everywhere, so it needs no confirmation.
        if at == 0 || at > *self.raft.applied().borrow() {
            self.raft.linearize().await?;
        }
        let (index, found) = self.raft.read_at(Export::of);
        if at != 0 && at != index {
            return Err(other_index(at, index));
        }
        let export = Export { index, ..found };
        let (out, stream) = mpsc::channel(STREAM_QUEUE);
        let stop = self.tasks.token().clone();
        self.tasks.spawn_infallible(TaskKind::Subscription, async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = send(export, &out) => {}
            }
        });
        Ok(ReceiverStream::new(stream))
    }
}

fn other_index(at: u64, index: u64) -> ApiError {
    let when =
        if at > index { "not applied yet" } else { "not the newest any more, and older states are not kept" };
    ApiError::OtherIndex(format!("index {at} is {when}: the state is at {index}"))
}

impl Export {
    fn of(state: &State) -> Self {
        let cluster = state.cluster();
        let head = serde_json::json!({
            "cluster_id": cluster.map(|cluster| cluster.id.to_string()),
            "incarnation": state.incarnation(),
            "cluster_version": cluster.map(|cluster| cluster.version),
            "digest": HEXLOWER.encode(&state.digest()),
            "left_out": SECRETS,
        });
        Self { index: 0, head, rows: state.rows().collect() }
    }
}

async fn send(export: Export, out: &mpsc::Sender<Item>) {
    let mut text = Text { buffer: BytesMut::new(), index: export.index, out };
    // The reader may go at any time.
    drop(write(&export, &mut text).await);
}

struct Gone;

async fn write(export: &Export, text: &mut Text<'_>) -> Result<(), Gone> {
    text.put("{\"apiVersion\":\"stratavore.v1\",\"kind\":\"StateExport\"").await?;
    text.put(&format!(",\"applied_index\":{}", export.index)).await?;
    if let Value::Object(head) = &export.head {
        for (key, value) in head {
            text.put(&format!(",\n\"{key}\":{value}")).await?;
        }
    }
    text.put(",\n\"tables\":{").await?;
    let mut rows = export.rows.iter().peekable();
    for (at, table) in Table::ALL.into_iter().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        text.put(&format!("{comma}\n\"{}\":[", name(table))).await?;
        let mut separator = "\n";
        // Rows come table by table.
        while let Some(row) = rows.next_if(|row| row.table() == table) {
            text.put(separator).await?;
            text.put(&readable(row).to_string()).await?;
            separator = ",\n";
        }
        text.put("]").await?;
    }
    text.put("}}\n").await?;
    text.flush().await?;
    text.send(Bytes::new()).await
}

const fn name(table: Table) -> &'static str {
    match table {
        Table::Cluster => "cluster",
        Table::Clock => "clock",
        Table::Node => "nodes",
        Table::User => "users",
        Table::Host => "hosts",
        Table::Key => "keys",
        Table::Token => "tokens",
        Table::Project => "projects",
        Table::Runner => "runners",
        Table::Dedup => "requests",
        Table::Segment => "event_segments",
    }
}

/// A row without its table's name around it, its secrets, and bytes as lists of numbers.
fn readable(row: &Row) -> Value {
    let value = serde_json::to_value(row).unwrap_or_else(|error| Value::String(error.to_string()));
    let inner = match value {
        Value::Object(outer) => outer.into_iter().next().map_or(Value::Null, |(_, inner)| inner),
        other => other,
    };
    cleaned(inner)
}

fn cleaned(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(fields.into_iter().filter_map(field).collect::<Map<_, _>>()),
        Value::Array(items) => Value::Array(items.into_iter().map(cleaned).collect()),
        other => other,
    }
}

fn field((key, value): (String, Value)) -> Option<(String, Value)> {
    let value = match key.as_str() {
        "env" => names(&value),
        key if SECRETS.contains(&key) => return None,
        key if BYTES.contains(&key) => hex(&value).unwrap_or_else(|| cleaned(value)),
        _ => cleaned(value),
    };
    Some((key, value))
}

/// Of pairs of name and value the names.
fn names(pairs: &Value) -> Value {
    let pairs = pairs.as_array().into_iter().flatten();
    Value::Array(pairs.filter_map(|pair| pair.get(0).cloned()).collect())
}

fn hex(bytes: &Value) -> Option<Value> {
    let byte = |value: &Value| value.as_u64().and_then(|value| u8::try_from(value).ok());
    let bytes: Option<Vec<u8>> = bytes.as_array()?.iter().map(byte).collect();
    Some(Value::String(HEXLOWER.encode(&bytes?)))
}

/// Gathers small pieces into messages.
struct Text<'a> {
    buffer: BytesMut,
    index: u64,
    out: &'a mpsc::Sender<Item>,
}

impl Text<'_> {
    async fn put(&mut self, piece: &str) -> Result<(), Gone> {
        self.buffer.put_slice(piece.as_bytes());
        if self.buffer.len() < CHUNK_BYTES { Ok(()) } else { self.flush().await }
    }

    async fn flush(&mut self) -> Result<(), Gone> {
        let data = self.buffer.split().freeze();
        if data.is_empty() { Ok(()) } else { self.send(data).await }
    }

    async fn send(&self, data: Bytes) -> Result<(), Gone> {
        let message = ExportStateResponse { data, applied_index: self.index };
        self.out.send(Ok(message)).await.map_err(|_| Gone)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use stratavore_model::{
        ClusterRecord, Incarnation, LeaseNumbers, Millis, NodeId, Role, RunnerSpec, SecretBytes, TokenRecord,
        TokenState,
    };

    use super::*;

    #[test]
    fn secrets_are_left_out_and_bytes_can_be_read() {
        let cluster = readable(&Row::Cluster(Box::new(ClusterRecord {
            id: "0123456789abcdef".parse().unwrap(),
            incarnation: Incarnation { n: 1, nonce: [0xab; 16] },
            created_at: Millis(1),
            lease: LeaseNumbers::default(),
            ca_cert_der: vec![1, 255],
            ca_key_der: SecretBytes::new(vec![42; 4]),
            version: 3,
            next_node: NodeId(2),
            raised_at_index: 0,
            maintenance: None,
        })));
        assert_eq!(cluster["ca_cert_der"], "01ff");
        assert_eq!(cluster["incarnation"]["nonce"], "ab".repeat(16));
        assert!(cluster.get("ca_key_der").is_none() && !cluster.to_string().contains("42"), "{cluster}");
        let token = readable(&Row::Token(TokenRecord {
            id: "0123456789".parse().unwrap(),
            role: Role::User,
            secret_sha256: [7; 32],
            labels: Default::default(),
            created_at: Millis(1),
            expires_at: Millis(2),
            created_by: "system".parse().unwrap(),
            state: TokenState::Unused,
        }));
        assert!(token.get("secret_sha256").is_none(), "{token}");
    }

    #[test]
    fn of_an_environment_the_names_stand() {
        let spec = RunnerSpec { env: vec![("API_KEY".into(), "sk-1".into())], ..RunnerSpec::default() };
        let shown = cleaned(serde_json::to_value(Arc::new(spec)).unwrap());
        assert_eq!(shown["env"], serde_json::json!(["API_KEY"]));
    }

    #[test]
    fn an_index_that_the_state_is_not_at_is_refused_with_the_reason() {
        assert!(other_index(9, 7).to_string().contains("not applied yet: the state is at 7"));
        assert!(other_index(5, 7).to_string().contains("older states are not kept: the state is at 7"));
    }
}
