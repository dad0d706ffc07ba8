//! The real parts themselves: what other tests take for granted of them.

use crate::real::{ApiServer, Cluster, Postgres};
use k8s_openapi::api::core::v1::Secret;
use sqlx::Connection;

async fn ask(url: &str) -> Result<i32, sqlx::Error> {
    let mut connection = sqlx::PgConnection::connect(url).await?;
    sqlx::query_scalar("select 1").fetch_one(&mut connection).await
}

#[tokio::test]
async fn real_postgres_goes_away_and_comes_back_with_its_data() {
    let server = Postgres::start();
    let url = server.database();
    assert_eq!(ask(&url).await.expect("a new database answers"), 1);
    server.kill();
    ask(&url).await.expect_err("a killed server does not answer");
    server.resume();
    assert_eq!(ask(&url).await.expect("the database is still there"), 1);
    server.restart();
    assert_eq!(ask(&url).await.expect("and after an orderly restart"), 1);
}

#[tokio::test]
async fn real_postgres_gives_every_test_a_database_of_its_own() {
    let (one, other) = (Postgres::shared().database(), Postgres::shared().database());
    assert_ne!(one, other);
    let mut connection = sqlx::PgConnection::connect(&one).await.expect("connect");
    sqlx::query("create table mine (id int)").execute(&mut connection).await.expect("create a table");
    let mut connection = sqlx::PgConnection::connect(&other).await.expect("connect");
    sqlx::query("select * from mine").execute(&mut connection).await.expect_err("the other one does not have it");
}

#[tokio::test]
async fn real_api_server_knows_service_accounts_and_goes_away_and_comes_back() {
    let server = ApiServer::start();
    let namespace = server.namespace();
    let account = server.service_account(&namespace, "nobody");
    let nobody = ApiServer::client(&account, &namespace).await;
    let secrets = kube::Api::<Secret>::default_namespaced(nobody);
    let refused = secrets.list(&Default::default()).await.expect_err("it may not read secrets");
    assert!(matches!(&refused, kube::Error::Api(status) if status.code == 403), "{refused}");
    assert_eq!(server.writes(&namespace), [""; 0], "to read is not to write");
    secrets.delete("treasure", &Default::default()).await.expect_err("nor may it delete one");
    assert_eq!(server.writes(&namespace), ["delete secrets treasure 403"]);
    server.stop();
    let away = secrets.list(&Default::default()).await.expect_err("nobody listens");
    assert!(!matches!(away, kube::Error::Api(_)), "{away}");
    server.resume();
    assert!(server.kubectl(&["get", "namespaces"]).contains(&namespace), "etcd kept it");
}

#[tokio::test]
async fn real_cluster_runs_a_pod_that_the_host_reaches() {
    let cluster = Cluster::shared();
    let namespace = cluster.api.namespace();
    cluster.api.apply(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: web, namespace: {namespace}, labels: {{app: web}}}}
spec:
  containers:
  - name: web
    image: local/busybox:1
    imagePullPolicy: Never
    command: [sh, -c, "echo well > /tmp/index.html; exec httpd -f -p 8080 -h /tmp"]
    readinessProbe: {{httpGet: {{port: 8080, path: /index.html}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: {namespace}}}
spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}]}}
"#
    ));
    let wait = ["--namespace", &namespace, "wait", "pod/web", "--for=condition=Ready", "--timeout=60s"];
    cluster.api.kubectl(&wait);
    let address = ["--namespace", &namespace, "get", "service", "web", "--output=jsonpath={.spec.clusterIP}"];
    let url = format!("http://{}/index.html", cluster.api.kubectl(&address));
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    let answer = loop {
        match reqwest::get(&url).await {
            Ok(answer) => break answer.text().await.expect("a body"),
            Err(error) if tokio::time::Instant::now() > deadline => panic!("{url}: {error}"),
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
        }
    };
    assert_eq!(answer.trim(), "well");
}
