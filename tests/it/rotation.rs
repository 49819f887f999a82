//! Credentials that expire while everybody runs, and are renewed in their file: worker, gateway and client are back at their
//! next try to connect.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nats_rerank::client::{CallOptions, Caller};
use nats_rerank::nats::ConnectionSettings;
use nats_rerank::protocol::Request;
use nats_rerank::worker::WorkerSettings;
use nkeys::KeyPair;
use serde_json::json;

use crate::faults::{InProcess, lengths};
use crate::gateway;
use crate::identity::{Issuer, Site, credentials, set};
use crate::support::{PATIENCE, http, until};

/// Long enough to start everybody on a machine at work.
const LIFE: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn a_jwt_that_expires_and_is_renewed_brings_everybody_back() {
    let site = Site::new();
    let (issuer, user) = (Issuer::new(), KeyPair::new_user());
    let server = site.server(&issuer.configuration);
    let seed = user.seed().expect("a seed");
    let expires = SystemTime::now() + LIFE;
    let expires = expires.duration_since(UNIX_EPOCH).expect("a clock past 1970").as_secs();
    let file = site.write("all.creds", &credentials(&issuer.user(&user, Some(expires)), &seed));
    let connection = ConnectionSettings {
        urls: vec![server.url.clone()],
        credentials_file: Some(file.clone()),
        ..ConnectionSettings::default()
    };
    let login = connection.clone();
    let worker = InProcess::start(
        &server,
        move |settings: &mut WorkerSettings| settings.connection = login,
        |pairs| Ok(lengths(pairs)),
    )
    .await;
    let caller = Caller::connect(&connection).await.expect("a connection");
    let (gateway, address) = gateway::start(&server.url, &[&set("credentials_file", file.display())]);
    let options = CallOptions {
        timeout: PATIENCE,
        ..CallOptions::default()
    };
    let request = Request::new("q", ["a", "b"]);
    caller.rerank(&request, &options).await.expect("an answer");

    let ready = || http::get(&address, "/readyz").status == 200;
    let connected = || worker.status.snapshot().connected;
    until("expired for all", || !connected() && !caller.is_connected() && !ready()).await;
    // In one step, as secrets are mounted.
    let fresh = site.write("fresh.creds", &credentials(&issuer.user(&user, None), &seed));
    std::fs::rename(fresh, &file).expect("another file");
    until("back", || connected() && caller.is_connected() && ready()).await;
    until("a member", || server.members("rerank.v1.score") == 1).await;
    caller.rerank(&request, &options).await.expect("an answer");
    let body = json!({"query": "q", "documents": ["a", "b"]});
    let answer = http::post(&address, "/rerank", &[("Content-Type", "application/json")], &body);
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("Rerank-Fallback"), None, "{}", gateway.log());
    worker.stop().await.expect("a clean stop");
}
