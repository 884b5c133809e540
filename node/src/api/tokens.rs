//! `TokenService`: tokens without their secrets, which never reach a node before they are redeemed.

use stratavore_certs::SpkiHash;
use stratavore_model::{Reply, State};
use stratavore_proto::v1::token_service_server::TokenService;
use stratavore_proto::v1::{
    CreateTokenRequest, CreateTokenResponse, ListTokensRequest, ListTokensResponse, RevokeTokenRequest,
    RevokeTokenResponse, TokenInfo,
};
use tonic::{Request, Response, Status};

use crate::api::Api;
use crate::api::auth::{self, Administer};
use crate::convert::{command, token};

fn shown(state: &State, reply: &Reply) -> Option<TokenInfo> {
    let Reply::Token(id) = reply else { return None };
    state.token(*id).map(|record| token::to_proto(record, state.now()))
}

/// What the join line needs beside the token.
fn created(state: &State, reply: &Reply) -> Option<CreateTokenResponse> {
    let cluster = state.cluster()?;
    let pin = SpkiHash::of_certificate(&cluster.ca_cert_der.as_slice().into()).ok()?;
    let nodes = state.nodes().filter(|node| !node.removed);
    Some(CreateTokenResponse {
        token: Some(shown(state, reply)?),
        cluster_id: cluster.id.to_string(),
        ca_pin: pin.0.to_vec().into(),
        join_addresses: nodes.map(|node| node.addresses.join.clone()).collect(),
    })
}

#[tonic::async_trait]
impl TokenService for Api {
    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenResponse>, Status> {
        let who = auth::require::<Administer>(request.extensions())?;
        let mut request = request.into_inner();
        let request_id = std::mem::take(&mut request.request_id);
        self.mutate(&who, &request_id, command::create_token(request), created).await
    }

    async fn list_tokens(
        &self,
        request: Request<ListTokensRequest>,
    ) -> Result<Response<ListTokensResponse>, Status> {
        auth::require::<Administer>(request.extensions())?;
        self.confirmed().await?;
        let tokens = self
            .raft
            .read(|state| state.tokens().map(|record| token::to_proto(record, state.now())).collect());
        Ok(Response::new(ListTokensResponse { tokens }))
    }

    async fn revoke_token(
        &self,
        request: Request<RevokeTokenRequest>,
    ) -> Result<Response<RevokeTokenResponse>, Status> {
        let who = auth::require::<Administer>(request.extensions())?;
        let request = request.into_inner();
        let show = |state: &State, reply: &Reply| {
            shown(state, reply).map(|token| RevokeTokenResponse { token: Some(token) })
        };
        self.mutate(&who, &request.request_id, command::revoke_token(&request), show).await
    }
}
