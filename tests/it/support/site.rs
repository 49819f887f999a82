//! The servers of deploy/nats as a user would run them: the files as they are, and beside them what `make-site` writes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_nats::{Client, ConnectOptions, Event, ServerError};
use nats_rerank::nats::ConnectionSettings;

use super::nats_server::NatsServer;
use super::{PATIENCE, RawCaller, root, until};

pub struct Site {
    folder: tempfile::TempDir,
}

impl Site {
    /// A site whose `site/` holds `own` (name, text) before `make-site` fills in the rest.
    pub fn new(own: &[(&str, &str)]) -> Site {
        let site = Site {
            folder: tempfile::tempdir().expect("a folder"),
        };
        site.make(own);
        site
    }

    /// A second server of this site's system, as the README says: its folder once more, with a certificate of its own.
    pub fn another(&self, own: &[(&str, &str)]) -> Site {
        let site = Site {
            folder: tempfile::tempdir().expect("a folder"),
        };
        for folder in ["site", "clients", "authority"] {
            let copied = Command::new("cp")
                .arg("-r")
                .arg(self.path(folder))
                .arg(site.folder.path())
                .status();
            assert!(copied.expect("cp").success());
        }
        std::fs::remove_file(site.path("site/tls.conf")).expect("the first one's");
        site.make(own);
        site
    }

    fn make(&self, own: &[(&str, &str)]) {
        let store = format!("store_dir: \"{}\"\n", self.path("jetstream").display());
        for (name, text) in [("jetstream.conf", store.as_str())].iter().chain(own) {
            self.write(name, text);
        }
        let shipped = root().join("deploy/nats");
        let made = Command::new(shipped.join("make-site"))
            .arg(self.folder.path())
            .args(["localhost", "127.0.0.1"])
            .output()
            .expect("make-site");
        assert!(made.status.success(), "{made:?}");
        for name in ["common.conf", "server.conf", "hub.conf", "leaf.conf", "cluster.conf"] {
            let read = |folder: &Path| std::fs::read(folder.join(name)).expect("a configuration");
            assert!(
                read(&shipped) == read(self.folder.path()),
                "{name} is not as it is shipped"
            );
        }
    }

    /// Writes a file of `site/`.
    pub fn write(&self, name: &str, text: &str) {
        std::fs::create_dir_all(self.path("site")).expect("a folder");
        std::fs::write(self.path("site").join(name), text).expect("a file");
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).expect("a file")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts a server with a file of deploy/nats. The command line puts other ports in place of the file's.
    pub fn start(&self, configuration: &str) -> NatsServer {
        NatsServer::start_with(&["-c", &self.path(configuration).display().to_string()])
    }

    /// How a program of ours connects as `name`.
    pub fn connection(&self, server: &NatsServer, name: &str) -> ConnectionSettings {
        ConnectionSettings {
            urls: vec![url(server)],
            nkey_seed_file: Some(self.path(&format!("clients/{name}.nk"))),
            inbox_prefix: Some(format!("_INBOX_{name}")),
            tls_required: true,
            tls_ca_file: Some(self.path("clients/ca.pem")),
            connect_timeout: PATIENCE,
            ..ConnectionSettings::default()
        }
    }

    /// Trust in the site's certificates, and nothing else.
    pub fn trust(&self, options: ConnectOptions) -> ConnectOptions {
        options
            .require_tls(true)
            .add_root_certificates(self.path("clients/ca.pem"))
            .connection_timeout(PATIENCE)
            .request_timeout(Some(PATIENCE))
    }

    /// The seed of `name`'s nkey.
    pub fn seed(&self, name: &str) -> String {
        self.read(&format!("clients/{name}.nk")).trim().to_owned()
    }

    /// Connects as `name` with a plain client.
    pub async fn identity(&self, server: &NatsServer, name: &str) -> Identity {
        let options = self.trust(ConnectOptions::with_nkey(self.seed(name)));
        Identity::connect(options.custom_inbox_prefix(format!("_INBOX_{name}")), server).await
    }
}

pub fn url(server: &NatsServer) -> String {
    server.url.replace("nats://", "tls://")
}

/// Something that an identity may do or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Publish(&'static str),
    Subscribe(&'static str),
    /// In a queue group.
    Join(&'static str, &'static str),
}

impl Act {
    /// How nats-server complains about it.
    fn violation(self) -> String {
        match self {
            Act::Publish(subject) => format!("violation for publish to \"{subject}\""),
            Act::Subscribe(subject) => format!("violation for subscription to \"{subject}\""),
            Act::Join(subject, group) => format!("violation for subscription to \"{subject}\" using queue \"{group}\""),
        }
        .to_lowercase()
    }
}

/// A connection that remembers what the server forbade it.
pub struct Identity {
    pub client: Client,
    complaints: Arc<Mutex<Vec<String>>>,
    tried: AtomicUsize,
}

impl Identity {
    pub async fn connect(options: ConnectOptions, server: &NatsServer) -> Identity {
        let complaints = Arc::new(Mutex::new(Vec::new()));
        let heard = complaints.clone();
        let options = options.event_callback(move |event| {
            if let Event::ServerError(ServerError::Other(text)) = event {
                heard.lock().expect("no panic").push(text.to_lowercase());
            }
            async {}
        });
        Identity {
            client: options.connect(url(server)).await.expect("a connection"),
            complaints,
            tried: AtomicUsize::new(0),
        }
    }

    /// Whether the server lets it. Tried for real.
    pub async fn may(&self, act: Act) -> bool {
        match act {
            Act::Publish(subject) => self.client.publish(subject, "".into()).await.expect("published"),
            Act::Subscribe(subject) => drop(self.client.subscribe(subject).await.expect("subscribed")),
            Act::Join(subject, group) => drop(
                self.client
                    .queue_subscribe(subject, group.to_owned())
                    .await
                    .expect("subscribed"),
            ),
        }
        // What nobody may: once the server has complained about this, it has about all before.
        let last = format!("nobody.{}", self.tried.fetch_add(1, Ordering::Relaxed));
        self.client.publish(last.clone(), "".into()).await.expect("published");
        let complained = |text: &str| {
            let complaints = self.complaints.lock().expect("no panic");
            complaints.iter().any(|complaint| complaint.ends_with(text))
        };
        let last = format!("violation for publish to \"{last}\"");
        until("the server complains", || complained(&last)).await;
        !complained(&act.violation())
    }

    /// What the server forbade it so far.
    pub fn complaints(&self) -> Vec<String> {
        self.complaints.lock().expect("no panic").clone()
    }

    pub fn caller(&self) -> RawCaller {
        RawCaller {
            client: self.client.clone(),
            subject: "rerank.v1.score".to_owned(),
        }
    }
}
