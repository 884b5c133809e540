//! What of etcd's gRPC API the comparison needs: the few fields, written down by hand from its `rpc.proto` (version 3).

use prost::Message;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

/// `etcdserverpb.PutRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct PutRequest {
    /// Key.
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// Value.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// `etcdserverpb.PutResponse`; nothing of it is looked at.
#[derive(Clone, PartialEq, Message)]
pub struct PutResponse {}

/// `etcdserverpb.RangeRequest`; without more it is linearizable.
#[derive(Clone, PartialEq, Message)]
pub struct RangeRequest {
    /// First key.
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// End (exclusive); empty = only that key.
    #[prost(bytes = "vec", tag = "2")]
    pub range_end: Vec<u8>,
    /// Without the values.
    #[prost(bool, tag = "8")]
    pub keys_only: bool,
}

/// `etcdserverpb.RangeResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct RangeResponse {
    /// What was found.
    #[prost(message, repeated, tag = "2")]
    pub kvs: Vec<KeyValue>,
}

/// `mvccpb.KeyValue`.
#[derive(Clone, PartialEq, Message)]
pub struct KeyValue {
    /// Key.
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// Value.
    #[prost(bytes = "vec", tag = "5")]
    pub value: Vec<u8>,
}

/// `etcdserverpb.StatusRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct StatusRequest {}

/// `etcdserverpb.StatusResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct StatusResponse {
    /// Who answers.
    #[prost(message, optional, tag = "1")]
    pub header: Option<Header>,
    /// Member that leads; 0 = none.
    #[prost(uint64, tag = "4")]
    pub leader: u64,
}

/// `etcdserverpb.ResponseHeader`.
#[derive(Clone, PartialEq, Message)]
pub struct Header {
    /// The member that answers.
    #[prost(uint64, tag = "2")]
    pub member_id: u64,
}

/// `etcdserverpb.MoveLeaderRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct MoveLeaderRequest {
    /// Who shall lead.
    #[prost(uint64, tag = "1")]
    pub target: u64,
}

/// `etcdserverpb.MoveLeaderResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct MoveLeaderResponse {}

/// Calls over one connection.
#[derive(Clone, Debug)]
pub struct EtcdClient {
    grpc: tonic::client::Grpc<Channel>,
}

impl EtcdClient {
    /// Over an open connection.
    #[must_use]
    pub fn new(channel: Channel) -> Self {
        Self { grpc: tonic::client::Grpc::new(channel).max_decoding_message_size(usize::MAX) }
    }

    async fn call<Q, A>(&mut self, path: &'static str, request: Q) -> Result<A, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        self.grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let path = http::uri::PathAndQuery::from_static(path);
        let codec = ProstCodec::<Q, A>::default();
        Ok(self.grpc.unary(Request::new(request), path, codec).await?.into_inner())
    }

    /// Writes one key.
    ///
    /// # Errors
    /// The server's status.
    pub async fn put(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<(), Status> {
        let _: PutResponse = self.call("/etcdserverpb.KV/Put", PutRequest { key, value }).await?;
        Ok(())
    }

    /// Reads one key, linearizably.
    ///
    /// # Errors
    /// The server's status.
    pub async fn get(&mut self, key: Vec<u8>) -> Result<RangeResponse, Status> {
        self.call("/etcdserverpb.KV/Range", RangeRequest { key, ..Default::default() }).await
    }

    /// All keys that begin with `prefix`, linearizably, without values.
    ///
    /// # Errors
    /// The server's status.
    pub async fn keys(&mut self, prefix: &str) -> Result<Vec<Vec<u8>>, Status> {
        let mut range_end = prefix.as_bytes().to_vec();
        if let Some(last) = range_end.last_mut() {
            *last += 1;
        }
        let request = RangeRequest { key: prefix.into(), range_end, keys_only: true };
        let found: RangeResponse = self.call("/etcdserverpb.KV/Range", request).await?;
        Ok(found.kvs.into_iter().map(|kv| kv.key).collect())
    }

    /// Who answers, and whom it takes for the leader (0 = nobody).
    ///
    /// # Errors
    /// The server's status.
    pub async fn status(&mut self) -> Result<(u64, u64), Status> {
        let status: StatusResponse = self.call("/etcdserverpb.Maintenance/Status", StatusRequest {}).await?;
        Ok((status.header.unwrap_or_default().member_id, status.leader))
    }

    /// Has the leader, which must be the one that is asked, hand over.
    ///
    /// # Errors
    /// The server's status.
    pub async fn move_leader(&mut self, target: u64) -> Result<(), Status> {
        let _: MoveLeaderResponse =
            self.call("/etcdserverpb.Maintenance/MoveLeader", MoveLeaderRequest { target }).await?;
        Ok(())
    }
}
