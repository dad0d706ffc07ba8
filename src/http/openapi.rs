//! The API's description of itself.

use axum::Json;
use utoipa::{
    Modify, OpenApi,
    openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};

#[derive(OpenApi)]
#[openapi(
    info(title = "Ostler", description = "Resources with status, live facts and controls; tasks"),
    paths(
        super::controls::down,
        super::controls::pause,
        super::controls::reconcile,
        super::controls::run,
        super::controls::resume,
        super::controls::suspend,
        super::controls::unpause,
        super::events::events,
        super::events::problems,
        super::health::livez,
        super::health::metrics,
        super::health::readyz,
        super::resources::get,
        super::resources::list,
        super::services::operation,
        super::services::start,
        super::services::stop,
        super::status::status,
        super::tasks::assign::assign,
        super::tasks::command::command,
        super::tasks::command::purge,
        super::tasks::counts::experts,
        super::tasks::counts::queues,
        super::tasks::counts::workers,
        super::tasks::events::events,
        super::tasks::handover::complete,
        super::tasks::handover::heartbeat,
        super::tasks::insert::insert,
        super::tasks::read::get,
        super::tasks::read::list,
        super::tasks::read::results,
        super::tasks::explain::explain,
        openapi,
    ),
    modifiers(&Bearer),
    security(("token" = []))
)]
pub(super) struct Description;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        api.components.get_or_insert_default().add_security_scheme("token", scheme);
    }
}

/// This description.
#[utoipa::path(get, path = "/api/v1/openapi.json", responses((status = 200, body = Object)))]
pub(super) async fn openapi() -> Json<utoipa::openapi::OpenApi> {
    Json(Description::openapi())
}
