//! Who may what, as a real API server says.

use std::{path::Path, sync::Arc};

use ostler::http::{KubeAuthorizer, ResourceHome};
use reqwest::{Method, StatusCode};

use super::bench::{Bench, TEAM};
use crate::real::ApiServer;

const ROLE: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: looker, namespace: NAMESPACE}
rules:
- {apiGroups: [ostler.dev], resources: [llmbackends], verbs: [get, list]}
- {apiGroups: [ostler.dev], resources: [taskqueues/tasks], verbs: [get, list, create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: looker, namespace: NAMESPACE}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: looker}
subjects: [{kind: ServiceAccount, name: looker, namespace: NAMESPACE}]
";

#[tokio::test(flavor = "multi_thread")]
async fn real_roles_of_the_cluster_decide() {
    let server = ApiServer::shared();
    let namespace = server.namespace();
    server.service_account(&namespace, "looker");
    server.apply(&ROLE.replace("NAMESPACE", &namespace));
    let token = server.kubectl(&["create", "token", "looker", "--namespace", &namespace]).trim().to_owned();
    // As administrator: what the controller's own account may review is the chart's test.
    let client = ApiServer::client(Path::new(server.kubeconfig()), &namespace).await;
    let bench = Bench::with(TEAM, Arc::new(KubeAuthorizer::new(client)), ResourceHome::Cluster).await;
    let stop = "/api/v1/services/mac/ollama/stop";
    for (token, method, path, expected) in [
        (Some(token.as_str()), Method::GET, format!("/api/v1/llm?namespace={namespace}"), StatusCode::OK),
        (Some(&token), Method::GET, format!("/api/v1/status?namespace={namespace}"), StatusCode::OK),
        (Some(&token), Method::GET, "/api/v1/llm".to_owned(), StatusCode::FORBIDDEN),
        (Some(&token), Method::GET, "/api/v1/status".to_owned(), StatusCode::FORBIDDEN),
        (Some(&token), Method::GET, format!("/api/v1/ha?namespace={namespace}"), StatusCode::FORBIDDEN),
        (Some(&token), Method::POST, "/api/v1/pause".to_owned(), StatusCode::FORBIDDEN),
        (Some(&token), Method::POST, format!("{stop}?namespace={namespace}"), StatusCode::FORBIDDEN),
        (Some(&token), Method::GET, format!("/api/v1/tasks?namespace={namespace}"), StatusCode::OK),
        (Some(&token), Method::GET, "/api/v1/tasks".to_owned(), StatusCode::FORBIDDEN),
        // It is let in, and there is nothing in the body.
        (Some(&token), Method::POST, format!("/api/v1/tasks?namespace={namespace}"), StatusCode::BAD_REQUEST),
        (Some(&token), Method::POST, "/api/v1/tasks".to_owned(), StatusCode::FORBIDDEN),
        (Some(&token), Method::DELETE, format!("/api/v1/tasks?all=true&namespace={namespace}"), StatusCode::FORBIDDEN),
        (Some(&token), Method::POST, format!("/api/v1/tasks/assign?namespace={namespace}"), StatusCode::FORBIDDEN),
        (Some("eyJhbGciOiJub25lIn0.e30."), Method::GET, "/api/v1/llm".to_owned(), StatusCode::UNAUTHORIZED),
        (None, Method::GET, "/api/v1/llm".to_owned(), StatusCode::UNAUTHORIZED),
    ] {
        let (status, body) = bench.ask(token, method.clone(), &path, None).await;
        assert_eq!(status, expected, "{method} {path}: {body}");
    }
}
