//! The server configurations of deploy/nats, each started as it is shipped: what every identity can do and cannot.

use std::time::Duration;

use async_nats::ConnectOptions;
use async_nats::jetstream::{self, kv, stream};
use futures_util::StreamExt;
use nats_rerank::client::{AnnReason, Reranker};
use nats_rerank::protocol::Request;
use nkeys::KeyPair;

use crate::faults::{InProcess, lengths};
use crate::support::nats_server::{NatsServer, free_port};
use crate::support::site::{Act, Identity, Site, url};
use crate::support::{PATIENCE, until};

const SUBJECT: &str = "rerank.v1.score";
const BUCKET: &str = "rerank";
const EVERYBODY: [&str; 5] = ["worker", "caller", "gateway", "ops", "system"];

/// Who may do what; nobody else may. The table of deploy/nats/README.md in short.
const RIGHTS: [(Act, &[&str]); 40] = {
    use Act::{Join, Publish, Subscribe};
    const CALLERS: &[&str] = &["caller", "gateway"];
    const WATCHERS: &[&str] = &["worker", "caller", "gateway", "ops"];
    const NOBODY: &[&str] = &[];
    [
        // Asking and answering.
        (Publish(SUBJECT), CALLERS),
        (Join(SUBJECT, "rerank"), &["worker"]),
        (Join(SUBJECT, "other"), NOBODY),
        (Subscribe(SUBJECT), NOBODY),
        (Subscribe("rerank.>"), NOBODY),
        (Subscribe(">"), NOBODY),
        (Publish("rerank.v1.score.other-model"), NOBODY),
        // Inboxes: one's own, and an answer only to what one was asked.
        (Subscribe("_INBOX_worker.x"), &["worker"]),
        (Subscribe("_INBOX_caller.>"), &["caller"]),
        (Subscribe("_INBOX_gateway.>"), &["gateway"]),
        (Subscribe("_INBOX_ops.>"), &["ops"]),
        (Subscribe("_INBOX_system.>"), &["system"]),
        (Subscribe("_INBOX.>"), NOBODY),
        (Subscribe("*.x"), NOBODY),
        (Publish("_INBOX_caller.x"), NOBODY),
        (Publish("_INBOX_worker.x"), NOBODY),
        (Publish("_INBOX_ops.x"), NOBODY),
        // Discovery.
        (Publish("$SRV.PING"), &["ops"]),
        (Publish("$SRV.STATS.rerank"), &["ops"]),
        (Subscribe("$SRV.PING"), &["worker"]),
        (Subscribe("$SRV.INFO.rerank.x"), &["worker"]),
        // The live switch.
        (Publish("$KV.rerank.enabled"), &["ops"]),
        (Publish("$KV.rerank.other"), NOBODY),
        (Subscribe("$KV.rerank.>"), NOBODY),
        (Publish("$JS.API.STREAM.INFO.KV_rerank"), WATCHERS),
        (Publish("$JS.API.DIRECT.GET.KV_rerank.$KV.rerank.enabled"), WATCHERS),
        (
            Publish("$JS.API.CONSUMER.CREATE.KV_rerank.a.$KV.rerank.enabled"),
            WATCHERS,
        ),
        (Publish("$JS.API.CONSUMER.CREATE.KV_other.a.b"), NOBODY),
        (Publish("$JS.API.STREAM.CREATE.KV_rerank"), &["ops"]),
        (Publish("$JS.API.STREAM.CREATE.other"), NOBODY),
        (Publish("$JS.API.STREAM.PURGE.KV_rerank"), NOBODY),
        (Publish("$JS.API.STREAM.DELETE.KV_rerank"), NOBODY),
        (Publish("$JS.API.STREAM.MSG.DELETE.KV_rerank"), NOBODY),
        // Monitoring.
        (Publish("$SYS.REQ.ACCOUNT.PING.CONNZ"), &["ops"]),
        (Publish("$SYS.REQ.SERVER.PING"), &["system"]),
        (Publish("$SYS.REQ.SERVER.PING.VARZ"), &["system"]),
        (Publish("$SYS.REQ.SERVER.x.VARZ"), NOBODY),
        (Publish("$SYS.REQ.CLAIMS.UPDATE"), NOBODY),
        (Subscribe("$SYS.>"), NOBODY),
        (Publish("anything.else"), NOBODY),
    ]
};

/// A worker as `worker`, which follows the live switch, with the length of each pair as its score.
async fn worker(site: &Site, server: &NatsServer) -> InProcess {
    let connection = site.connection(server, "worker");
    let change = |settings: &mut nats_rerank::worker::WorkerSettings| {
        settings.connection = connection;
        settings.switch_bucket = Some(BUCKET.to_owned());
    };
    let worker = InProcess::start(server, change, |pairs| Ok(lengths(pairs))).await;
    until("the worker has joined", || server.members(SUBJECT) == 1).await;
    worker
}

async fn reranker(site: &Site, server: &NatsServer, name: &str) -> Reranker {
    Reranker::builder()
        .connection(site.connection(server, name))
        .switch_bucket(BUCKET)
        .budget(PATIENCE)
        .without_breaker()
        .read_environment(false)
        .connect()
        .await
        .expect("a connection")
}

/// The live switch as `ops` makes it, and again until JetStream is there.
async fn bucket(ops: &Identity, replicas: usize) -> kv::Store {
    let mut context = jetstream::new(ops.client.clone());
    // What is asked before a cluster has chosen its leader is never answered.
    context.set_timeout(Duration::from_secs(5));
    let stream = stream::Config {
        name: format!("KV_{BUCKET}"),
        subjects: vec![format!("$KV.{BUCKET}.>")],
        max_messages_per_subject: 1,
        max_bytes: 1024 * 1024,
        discard: stream::DiscardPolicy::New,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        num_replicas: replicas,
        ..Default::default()
    };
    let made = tokio::time::timeout(PATIENCE, async {
        while let Err(error) = context.get_or_create_stream(stream.clone()).await {
            println!("not yet: {error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    made.await.expect("a stream");
    context.get_key_value(BUCKET).await.expect("a bucket")
}

async fn answered(reranker: &Reranker) {
    let reranked = reranker.rerank("q", ["a", "b b b b"], None).await;
    assert_eq!(reranked.order.fallback(), None);
    assert_eq!(reranked.into_items(), ["b b b b", "a"]);
}

/// What is served at another server is known here a moment later.
async fn answered_at_last(reranker: &Reranker) {
    let answered_once = tokio::time::timeout(PATIENCE, async {
        while !reranker.rerank("q", ["a", "b"], None).await.is_reranked() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    answered_once.await.expect("an answer");
    answered(reranker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_identity_may_do_what_it_needs_and_nothing_else() {
    let site = Site::new(&[("leaf-listen.conf", "listen: \"127.0.0.1:-1\"\n")]);
    for configuration in ["server.conf", "hub.conf"] {
        let server = site.start(configuration);
        for name in EVERYBODY {
            let identity = site.identity(&server, name).await;
            for (act, allowed) in RIGHTS {
                let expected = allowed.contains(&name);
                assert_eq!(identity.may(act).await, expected, "{configuration}: {name}: {act:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_serves_callers_ask_and_operators_look_and_switch() {
    let site = Site::new(&[]);
    let server = site.start("server.conf");
    let ops = site.identity(&server, "ops").await;
    let bucket = bucket(&ops, 1).await;
    let worker = worker(&site, &server).await;
    for name in ["caller", "gateway"] {
        answered(&reranker(&site, &server, name).await).await;
    }
    // As any language's client would.
    let caller = site.identity(&server, "caller").await;
    let raw = caller.caller();
    raw.ask(&Request::new("q", ["a", "b"])).await.scored();

    // Discovery and monitoring.
    for (identity, subject, there) in [
        (&ops, "$SRV.PING.rerank", "ping_response"),
        (&ops, "$SRV.INFO", SUBJECT),
        (&ops, "$SRV.STATS.rerank", "num_requests"),
        (&ops, "$SYS.REQ.ACCOUNT.PING.CONNZ", "num_connections"),
        (
            &site.identity(&server, "system").await,
            "$SYS.REQ.SERVER.PING.VARZ",
            "max_payload",
        ),
    ] {
        let answer = identity.client.request(subject, "".into()).await.expect(subject);
        let text = String::from_utf8_lossy(&answer.payload);
        assert!(text.contains(there), "{subject}: {text}");
    }
    assert_eq!(server.monitor("/varz")["max_payload"], 4 << 20);

    // The live switch: everybody follows it.
    let reranker = reranker(&site, &server, "caller").await;
    bucket.put("enabled", "false".into()).await.expect("a value");
    until("off", || server.members(SUBJECT) == 0 && !reranker.is_enabled()).await;
    raw.ask_nobody().await;
    bucket.put("enabled", "true".into()).await.expect("a value");
    until("on", || server.members(SUBJECT) == 1 && reranker.is_enabled()).await;
    answered(&reranker).await;
    // NATS lets a caller name any reply subject: that its answer does not turn the switch is the worker's doing.
    let body = Request::new("q", ["a", "b"]).encode(nats_rerank::protocol::Encoding::Json);
    for reply_to in ["$KV.rerank.enabled", "$SRV.PING", SUBJECT] {
        let sent = raw.client.publish_with_reply(SUBJECT, reply_to, body.clone().into());
        sent.await.expect("a message");
    }
    raw.ask(&Request::new("q", ["a", "b"])).await.scored();
    // What reads the switch is not complained about.
    let context = jetstream::new(raw.client.clone());
    let store = context.get_key_value(BUCKET).await.expect("a bucket");
    let mut watch = store.watch_with_history("enabled").await.expect("a watch");
    let entry = watch.next().await.expect("an entry").expect("an entry");
    assert_eq!(entry.value, "true");
    assert_eq!(store.get("enabled").await.expect("a value"), Some("true".into()));
    drop(watch);
    raw.ask(&Request::new("q", ["a", "b"])).await.scored();
    assert_eq!(caller.complaints(), Vec::<String>::new());
    worker.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_not_let_in() {
    let site = Site::new(&[]);
    let server = site.start("server.conf");
    let leaf = site.read("site/leaf.conf");
    let password = leaf.split('"').nth(1).expect("a password").to_owned();
    let another = KeyPair::new_user().seed().expect("a seed");
    let strangers = [
        ("nobody", ConnectOptions::new()),
        ("an unknown key", ConnectOptions::with_nkey(another)),
        (
            "a guess",
            ConnectOptions::with_user_and_password("worker".to_owned(), "worker".to_owned()),
        ),
        (
            "a leaf's password",
            ConnectOptions::with_user_and_password("leaf".to_owned(), password),
        ),
    ];
    for (who, options) in strangers {
        let connected = site.trust(options).connect(url(&server)).await;
        assert!(connected.is_err(), "{who} was let in");
    }
    // Not without TLS, and not to a server that another authority vouches for.
    let plain = ConnectOptions::with_nkey(site.seed("caller"));
    let connected = plain.connection_timeout(PATIENCE).connect(&server.url).await;
    assert!(connected.is_err(), "a caller that does not trust the server");
    let elsewhere = Site::new(&[]);
    let options = elsewhere.trust(ConnectOptions::with_nkey(site.seed("caller")));
    assert!(
        options.connect(url(&server)).await.is_err(),
        "a server of another authority"
    );
    // The same, done right.
    assert!(site.identity(&server, "caller").await.may(Act::Publish(SUBJECT)).await);
}

/// `site/caller.conf` may hold a user and the bcrypt hash of a password in place of an nkey.
#[tokio::test(flavor = "multi_thread")]
async fn an_identity_may_be_a_password() {
    // Of `pw`.
    let hash = "$2b$04$aS3RMZonRTHA6y0gSX8VtOpMO8PBCmm4kMuLmahcgDley1ahWD/p6";
    let site = Site::new(&[("caller.conf", &format!("user: caller\npassword: \"{hash}\"\n"))]);
    let server = site.start("server.conf");
    let options = |password: &str| {
        let login = ConnectOptions::with_user_and_password("caller".to_owned(), password.to_owned());
        site.trust(login).custom_inbox_prefix("_INBOX_caller")
    };
    let caller = Identity::connect(options("pw"), &server).await;
    for (act, allowed) in RIGHTS {
        assert_eq!(caller.may(act).await, allowed.contains(&"caller"), "{act:?}");
    }
    assert!(options("wrong").connect(url(&server)).await.is_err());
}

/// A hub, and a leaf's own folder.
fn hub_and_leaf() -> (Site, NatsServer, Site) {
    let port = free_port();
    let hub = Site::new(&[("leaf-listen.conf", &format!("listen: \"127.0.0.1:{port}\"\n"))]);
    let server = hub.start("hub.conf");
    let url = hub
        .read("site/hub.conf")
        .replace("localhost:7422", &format!("localhost:{port}"));
    assert!(url.contains(&port), "{url}");
    let leaf = hub.another(&[("hub.conf", &url)]);
    (hub, server, leaf)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_at_a_leaf_is_answered_by_a_worker_at_the_hub() {
    let (hub, server, leaf) = hub_and_leaf();
    let ops = hub.identity(&server, "ops").await;
    let bucket = bucket(&ops, 1).await;
    let worker = worker(&hub, &server).await;
    let leaf_server = leaf.start("leaf.conf");
    until("the leaf is connected", || {
        leaf_server.monitor("/leafz")["leafnodes"] == 1
    })
    .await;
    let reranker = reranker(&leaf, &leaf_server, "caller").await;
    let caller = leaf.identity(&leaf_server, "caller").await;
    answered_at_last(&reranker).await;
    caller.caller().ask(&Request::new("q", ["a", "b"])).await.scored();
    // The leaf has a fence of its own.
    for (act, _) in RIGHTS {
        let expected = [Act::Publish(SUBJECT), Act::Subscribe("_INBOX_caller.>")].contains(&act);
        assert_eq!(caller.may(act).await, expected, "{act:?}");
    }
    // Only callers live here. They see at once that the workers are switched off.
    for name in ["worker", "ops"] {
        let options = leaf.trust(ConnectOptions::with_nkey(leaf.seed(name)));
        assert!(options.connect(url(&leaf_server)).await.is_err(), "{name}");
    }
    bucket.put("enabled", "false".into()).await.expect("a value");
    let told = tokio::time::timeout(PATIENCE, async {
        while reranker.rerank("q", ["a"], None).await.order.fallback() != Some(AnnReason::NoResponders) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    told.await.expect("no responders");
    caller.caller().ask_nobody().await;
    worker.stop().await.expect("a clean stop");
}

/// Whoever runs the leaf's server is held by the hub's fence: it can ask, and neither answer, listen nor switch.
#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_that_lets_everybody_do_everything_can_still_only_ask() {
    let (hub, server, leaf) = hub_and_leaf();
    let ops = hub.identity(&server, "ops").await;
    let bucket = bucket(&ops, 1).await;
    bucket.put("enabled", "true".into()).await.expect("a value");
    let _worker = worker(&hub, &server).await;
    let remote = leaf.read("site/hub.conf");
    let rogue = NatsServer::start_configured(
        &format!(
            "leafnodes {{ remotes: [ {{ {remote}\n tls {{ {} }} }} ] }}",
            leaf.read("site/tls.conf")
        ),
        &[],
    );
    until("the leaf is connected", || server.monitor("/leafz")["leafnodes"] == 1).await;
    let client = async_nats::connect(&rogue.url).await.expect("a connection");
    let mut heard = client.subscribe("rerank.>").await.expect("subscribed");
    let mut stolen = client
        .queue_subscribe(SUBJECT, "rerank".to_owned())
        .await
        .expect("subscribed");
    client
        .publish(format!("$KV.{BUCKET}.enabled"), "false".into())
        .await
        .expect("published");
    client.flush().await.expect("sent");
    let caller = hub.identity(&server, "caller").await.caller();
    for _ in 0..30 {
        caller.ask(&Request::new("q", ["a", "b"])).await.scored();
    }
    // What is asked at the leaf may go to its own listeners; what was asked at the hub never came here.
    for subscription in [&mut heard, &mut stolen] {
        let first = tokio::time::timeout(PATIENCE, async {
            loop {
                client.publish(SUBJECT, "own".into()).await.expect("published");
                let soon = tokio::time::timeout(Duration::from_millis(50), subscription.next()).await;
                if let Ok(message) = soon {
                    break message.expect("a message");
                }
            }
        });
        assert_eq!(first.await.expect("a message").payload, "own");
    }
    assert_eq!(bucket.get("enabled").await.expect("a value"), Some("true".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_three_serves_across_its_routes() {
    let ports: Vec<String> = (0..3).map(|_| free_port()).collect();
    let routes: Vec<String> = ports
        .iter()
        .map(|port| format!("\"nats://localhost:{port}\""))
        .collect();
    let node = |index: usize| {
        [
            ("node.conf", format!("server_name: node-{index}\n")),
            (
                "routes.conf",
                format!(
                    "listen: \"127.0.0.1:{}\"\nroutes: [{}]\n",
                    ports[index],
                    routes.join(", ")
                ),
            ),
        ]
    };
    let own = |files: &[(&'static str, String); 2]| files.clone().map(|(name, text)| (name, text));
    let mut sites = Vec::new();
    for index in 0..3 {
        let files = own(&node(index));
        let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
        sites.push(match sites.first() {
            None => Site::new(&files),
            Some(first) => Site::another(first, &files),
        });
    }
    let servers: Vec<NatsServer> = sites.iter().map(|site| site.start("cluster.conf")).collect();
    until("the routes are there", || {
        servers.iter().all(|server| server.peers() == 2)
    })
    .await;
    let bucket = bucket(&sites[1].identity(&servers[1], "ops").await, 3).await;
    let worker = worker(&sites[0], &servers[0]).await;
    let reranker = reranker(&sites[2], &servers[2], "caller").await;
    answered_at_last(&reranker).await;
    bucket.put("enabled", "false".into()).await.expect("a value");
    until("off everywhere", || {
        servers[0].members(SUBJECT) == 0 && !reranker.is_enabled()
    })
    .await;
    worker.stop().await.expect("a clean stop");
}
