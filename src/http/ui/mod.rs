//! The dashboard: pages from the server over the same handlers as the API's. They read and act without a script; the script only keeps
//! them fresh. docs/dashboard.md says what they show.

mod acts;
mod assets;
mod backend;
mod bits;
mod calls;
mod commands;
mod containers;
mod door;
mod events;
mod external;
mod frame;
mod look;
mod overview;
mod queue;
mod resources;
mod rights;
mod session;
pub(super) mod sign;
mod snapshots;
mod task;
mod tasks;
mod verdict;
mod visit;

use axum::{
    Router,
    middleware::{from_fn_with_state, map_response},
    routing::{MethodRouter, get, post},
};

pub(super) use door::UiDoor;
pub use external::ExternalUrl;

use super::{Api, auth::Rule};

/// Every page and form with what it needs, as the API's own table has it.
fn table() -> Vec<(&'static str, Rule, MethodRouter<Api>)> {
    use Rule::{OfAll, OfBackends, OfCalls, OfPath, OfTasks, Open};
    let home = || get(|| async { visit::see_other("/ui") });
    vec![
        ("/", Open, home()),
        ("/ui/", Open, home()),
        ("/ui/assets/{name}", Open, get(assets::asset)),
        ("/ui/sign-in", Open, get(sign::show).post(sign::sign_in)),
        ("/ui/sign-out", Open, post(sign::sign_out)),
        ("/ui/link/{code}", Open, get(sign::show_link).post(sign::open_link)),
        ("/ui", OfBackends("list"), get(overview::page)),
        ("/ui/events", OfBackends("list"), get(events::page)),
        ("/ui/pause", OfAll("create", "pauses"), post(acts::pause)),
        ("/ui/unpause", OfAll("delete", "pauses"), post(acts::unpause)),
        ("/ui/causes/acknowledge", OfBackends("patch"), post(acts::acknowledge)),
        ("/ui/tasks", OfTasks("list"), get(tasks::page)),
        ("/ui/tasks/confirm", OfTasks("update"), get(commands::confirm)),
        ("/ui/tasks/commands", OfTasks("update"), post(commands::act)),
        ("/ui/tasks/{id}", OfTasks("get"), get(task::page)),
        ("/ui/calls", OfCalls("list"), get(calls::page)),
        ("/ui/calls/cancel", OfCalls("update"), post(calls::cancel)),
        ("/ui/{kind}", OfPath("list"), get(resources::list)),
        ("/ui/{kind}/{namespace}/{name}", OfPath("get"), get(resources::one)),
        ("/ui/{kind}/{namespace}/{name}/reconcile", OfPath("patch"), post(acts::on_resource)),
        ("/ui/{kind}/{namespace}/{name}/run", OfPath("patch"), post(acts::on_resource)),
        ("/ui/{kind}/{namespace}/{name}/suspend", OfPath("patch"), post(acts::on_resource)),
        ("/ui/{kind}/{namespace}/{name}/resume", OfPath("patch"), post(acts::on_resource)),
    ]
}

pub(super) fn router(api: &Api, door: &UiDoor) -> Router<Api> {
    let mut router = Router::new();
    for (path, rule, handler) in table() {
        let state = (api.clone(), door.clone(), rule);
        router = router.route(path, handler.route_layer(from_fn_with_state(state, door::enter)));
    }
    router.layer(map_response(door::secured))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_signing_in_and_what_it_looks_like_is_open() {
        let open: Vec<&str> =
            table().iter().filter(|(_, rule, _)| *rule == Rule::Open).map(|(path, ..)| *path).collect();
        assert_eq!(open, ["/", "/ui/", "/ui/assets/{name}", "/ui/sign-in", "/ui/sign-out", "/ui/link/{code}"]);
    }
}
