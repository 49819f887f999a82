//! How a reranker is made. The only thing that can fail.

use std::sync::Mutex;
use std::time::Duration;

use super::ask::Asker;
use super::circuit::Circuit;
use super::enabled::{self, Enabled};
use super::hedge::Hedge;
use super::reranker::{Defaults, Reranker};
use super::{BreakerSettings, Caller, HedgeSettings};
use crate::nats::{ConnectError, ConnectionSettings};
use crate::protocol::headers::BUDGET_MAX;
use crate::protocol::{DEFAULT_SUBJECT, Encoding};
use crate::switch::Bucket;

/// How often a refused part is asked again at most.
const RETRIES_MAX: u32 = 2;
/// Most parts of a call.
const PARTS_MAX: usize = 64;

/// Why there is no reranker: the one error of this module that a program has to handle, at its start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// No connection, or the settings of one are wrong.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A setting is outside its range.
    #[error("`{setting}`: {problem}")]
    Invalid {
        /// The method of the builder, or the variable of the environment.
        setting: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

impl BuildError {
    pub(super) fn invalid(setting: &'static str, problem: impl Into<String>) -> Self {
        Self::Invalid {
            setting,
            problem: problem.into(),
        }
    }
}

/// Settings of a [`Reranker`]; [`Reranker::builder`] makes one.
///
/// ```
/// use std::time::Duration;
/// use nats_rerank::client::{BreakerSettings, BuildError, HedgeSettings, Reranker};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let built = Reranker::builder()
///     .url("nats://127.0.0.1:9")
///     .subject("rerank.v1.score.bge-m3")
///     .budget(Duration::from_millis(120))
///     .split_pairs(64)
///     .breaker(BreakerSettings { slow: Some(Duration::from_millis(100)), ..BreakerSettings::default() })
///     .hedge(HedgeSettings::default())
///     .switch_bucket("switches")
///     .connect()
///     .await;
/// // Building is all that can fail: here there is no server.
/// assert!(matches!(built, Err(BuildError::Connect(_))));
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RerankerBuilder {
    connection: ConnectionSettings,
    subject: String,
    encoding: Encoding,
    budget: Duration,
    raw_scores: bool,
    truncate: bool,
    model: Option<String>,
    enabled: bool,
    reads_environment: bool,
    switch_bucket: Option<String>,
    switch_domain: Option<String>,
    retries_max: u32,
    split_pairs: Option<usize>,
    parts_max: usize,
    breaker: Option<BreakerSettings>,
    hedge: Option<HedgeSettings>,
}

impl Default for RerankerBuilder {
    fn default() -> Self {
        Self {
            connection: ConnectionSettings::default(),
            subject: DEFAULT_SUBJECT.to_owned(),
            encoding: Encoding::MsgPack,
            budget: Duration::from_millis(250),
            raw_scores: false,
            truncate: true,
            model: None,
            enabled: true,
            reads_environment: true,
            switch_bucket: None,
            switch_domain: None,
            retries_max: RETRIES_MAX,
            split_pairs: None,
            parts_max: 8,
            breaker: Some(BreakerSettings::default()),
            hedge: None,
        }
    }
}

impl RerankerBuilder {
    /// Where and as whom to connect. Unless set: a server on this machine, without authentication.
    pub fn connection(mut self, connection: ConnectionSettings) -> Self {
        self.connection = connection;
        self
    }

    /// The server to connect to, e.g. `nats://host:4222`: short for a [`connection`](Self::connection) that sets
    /// nothing else.
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.connection.urls = vec![url.into()];
        self
    }

    /// The subject that the workers listen on. Unless set: `rerank.v1.score`.
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.subject = subject.into();
        self
    }

    /// The encoding on the wire. Unless set: MessagePack, which is shorter.
    pub fn encoding(mut self, encoding: Encoding) -> Self {
        self.encoding = encoding;
        self
    }

    /// The time that a call may take in all, whatever happens; above zero, at most a day. Unless set: 250 ms.
    pub fn budget(mut self, budget: Duration) -> Self {
        self.budget = budget;
        self
    }

    /// True: scores are the model's logits; false, as unless set: the logits after the model's own activation.
    pub fn raw_scores(mut self, raw_scores: bool) -> Self {
        self.raw_scores = raw_scores;
        self
    }

    /// False: a pair that is longer than the model's limit has the call refused. True, as unless set: it is cut.
    pub fn truncate(mut self, truncate: bool) -> Self {
        self.truncate = truncate;
        self
    }

    /// The model that has to answer, by its id or alias. Unless set: whichever is served on the subject.
    pub fn model(mut self, model: impl Into<String>) -> Self {
        self.model = Some(model.into());
        self
    }

    /// Whether reranking is on. Switched off, every call ends at once in ANN order ([`SwitchedOff`]). Unless set: on.
    ///
    /// `RERANK_ENABLED` in the environment wins over this, so that whoever runs a program can switch it off; and the
    /// live switch ([`switch_bucket`](Self::switch_bucket)) wins over both.
    ///
    /// [`SwitchedOff`]: super::AnnReason::SwitchedOff
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.enabled = enabled;
        self
    }

    /// False: `RERANK_ENABLED` is not looked at, for programs that have read their environment themselves.
    pub fn read_environment(mut self, read: bool) -> Self {
        self.reads_environment = read;
        self
    }

    /// The JetStream KV bucket whose key `enabled` (`true` or `false`) switches reranking off and on while programs
    /// run, within a second. While it does not exist or JetStream is away, what was known last holds; at first, what is
    /// configured.
    pub fn switch_bucket(mut self, bucket: impl Into<String>) -> Self {
        self.switch_bucket = Some(bucket.into());
        self
    }

    /// The JetStream domain that the bucket is in: a hub's, say, seen from a leaf node. Unless set, no domain is named, which
    /// is the one of the servers connected to.
    pub fn switch_domain(mut self, domain: impl Into<String>) -> Self {
        self.switch_domain = Some(domain.into());
        self
    }

    /// How often a request that was refused as `overloaded` or `unavailable` is sent again within the budget: another
    /// worker may take it. At most, and unless set, 2.
    pub fn retries_max(mut self, retries_max: u32) -> Self {
        self.retries_max = retries_max;
        self
    }

    /// Splits a call with more candidates than this into parts of about as many, so that several workers share it;
    /// scores and order are those of the whole. At least 1. Unless set, only what is too large for one message is
    /// split.
    pub fn split_pairs(mut self, pairs: usize) -> Self {
        self.split_pairs = Some(pairs);
        self
    }

    /// The number of parts that a call is split into at most; 1 to 64. Candidates that do not fit into so many messages
    /// are not scored. Unless set: 8.
    pub fn parts_max(mut self, parts_max: usize) -> Self {
        self.parts_max = parts_max;
        self
    }

    /// When calls stop to ask for a while. Unless set: [`BreakerSettings::default`].
    pub fn breaker(mut self, settings: BreakerSettings) -> Self {
        self.breaker = Some(settings);
        self
    }

    /// Every call asks, whatever became of those before.
    pub fn without_breaker(mut self) -> Self {
        self.breaker = None;
        self
    }

    /// Sends a second request for what is late. Unless set, none is sent.
    pub fn hedge(mut self, settings: HedgeSettings) -> Self {
        self.hedge = Some(settings);
        self
    }

    /// Connects, one attempt at each server, and makes the reranker.
    ///
    /// # Errors
    /// A setting is wrong, or no connection could be made.
    pub async fn connect(self) -> Result<Reranker, BuildError> {
        let enabled = self.check()?;
        let caller = Caller::connect(&self.connection).await?;
        Ok(self.over(caller, enabled))
    }

    /// Makes the reranker at once and connects in the background, for as long as it takes: a program starts whether or
    /// not its NATS server is there. Until it is, calls end at once in ANN order
    /// ([`Disconnected`](super::AnnReason::Disconnected)).
    ///
    /// # Errors
    /// A setting is wrong, or a file that one names.
    pub async fn connect_lazy(self) -> Result<Reranker, BuildError> {
        let enabled = self.check()?;
        let caller = Caller::connect_lazy(&self.connection).await?;
        Ok(self.over(caller, enabled))
    }

    /// Checks every setting; says whether reranking is on.
    fn check(&self) -> Result<bool, BuildError> {
        if self.budget.is_zero() || self.budget > BUDGET_MAX {
            return Err(BuildError::invalid(
                "budget",
                "expected more than zero and at most a day",
            ));
        }
        if !is_subject(&self.subject) {
            return Err(BuildError::invalid(
                "subject",
                "expected a NATS subject: tokens between dots, without white space and wildcards",
            ));
        }
        if let Some(bucket) = &self.switch_bucket
            && !is_bucket(bucket)
        {
            return Err(BuildError::invalid(
                "switch_bucket",
                "expected a bucket's name: letters, digits, `-` and `_`",
            ));
        }
        if let Some(domain) = &self.switch_domain
            && (!is_subject(domain) || domain.contains('.'))
        {
            return Err(BuildError::invalid(
                "switch_domain",
                "expected a JetStream domain: a name without dots, white space and wildcards",
            ));
        }
        if self.retries_max > RETRIES_MAX {
            return Err(BuildError::invalid("retries_max", "expected 2 at most"));
        }
        if self.split_pairs == Some(0) {
            return Err(BuildError::invalid("split_pairs", "expected at least 1"));
        }
        if !(1..=PARTS_MAX).contains(&self.parts_max) {
            return Err(BuildError::invalid("parts_max", "expected 1 to 64"));
        }
        self.breaker.map_or(Ok(()), |settings| settings.check())?;
        self.hedge.map_or(Ok(()), |settings| settings.check())?;
        let variable = match std::env::var_os(enabled::VARIABLE) {
            Some(value) if self.reads_environment => Some(value),
            _ => None,
        };
        enabled::configured(
            self.enabled,
            variable.map(|value| value.to_string_lossy().into_owned()).as_deref(),
        )
    }

    fn over(self, caller: Caller, enabled: bool) -> Reranker {
        let domain = self.switch_domain;
        let bucket = self
            .switch_bucket
            .map(|name| (caller.sessions().clone(), Bucket { name, domain }));
        Reranker::new(
            Asker {
                caller,
                subject: self.subject,
                encoding: self.encoding,
                retries_max: self.retries_max,
                split_pairs: self.split_pairs,
                parts_max: self.parts_max,
                hedge: self
                    .hedge
                    .map(|settings| Mutex::new(std::array::from_fn(|_| Hedge::new(settings)))),
            },
            Enabled::new(enabled, bucket),
            Circuit::new(self.breaker),
            Defaults {
                budget: self.budget,
                raw_scores: self.raw_scores,
                truncate: self.truncate,
                model: self.model,
            },
        )
    }
}

fn is_subject(text: &str) -> bool {
    !text
        .chars()
        .any(|c| c.is_whitespace() || c.is_control() || matches!(c, '*' | '>'))
        && text.split('.').all(|token| !token.is_empty())
}

fn is_bucket(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
}
