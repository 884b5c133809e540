//! `ProjectService`.

use stratavore_model::{ProjectName, Reply, State};
use stratavore_proto::v1::project_service_server::ProjectService;
use stratavore_proto::v1::{
    CreateProjectRequest, CreateProjectResponse, ListProjectsRequest, ListProjectsResponse, Project,
    SetQuotaRequest, SetQuotaResponse,
};
use tonic::{Request, Response, Status};

use crate::api::Api;
use crate::api::auth::{self, Administer, Operate, Read};
use crate::api::status::ApiError;
use crate::convert::{command, id, project};

fn shown(state: &State, reply: &Reply) -> Option<Project> {
    let Reply::Project(name) = reply else { return None };
    state.project(name).map(|record| project::to_proto(record, state))
}

#[tonic::async_trait]
impl ProjectService for Api {
    async fn create_project(
        &self,
        request: Request<CreateProjectRequest>,
    ) -> Result<Response<CreateProjectResponse>, Status> {
        let who = auth::require::<Operate>(request.extensions())?;
        let mut request = request.into_inner();
        let request_id = std::mem::take(&mut request.request_id);
        let show = |state: &State, reply: &Reply| {
            shown(state, reply).map(|project| CreateProjectResponse { project: Some(project) })
        };
        self.mutate(&who, &request_id, command::create_project(request), show).await
    }

    async fn list_projects(
        &self,
        request: Request<ListProjectsRequest>,
    ) -> Result<Response<ListProjectsResponse>, Status> {
        auth::require::<Read>(request.extensions())?;
        let request = request.into_inner();
        let info = self.fresh(request.read).await?;
        let only: Option<ProjectName> = id::parse_optional("name", &request.name).map_err(ApiError::from)?;
        let projects = self.raft.read(|state| {
            let shown = |record| project::to_proto(record, state);
            match &only {
                Some(name) => state.project(name).map(shown).into_iter().collect(),
                None => state.projects().map(shown).collect(),
            }
        });
        Ok(Response::new(ListProjectsResponse { projects, info: Some(info) }))
    }

    async fn set_quota(
        &self,
        request: Request<SetQuotaRequest>,
    ) -> Result<Response<SetQuotaResponse>, Status> {
        let who = auth::require::<Administer>(request.extensions())?;
        let request = request.into_inner();
        let show = |state: &State, reply: &Reply| {
            shown(state, reply).map(|project| SetQuotaResponse { project: Some(project) })
        };
        self.mutate(&who, &request.request_id, command::set_quota(&request), show).await
    }
}
