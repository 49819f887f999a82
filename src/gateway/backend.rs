//! The models behind the gateway: a subject each.

use super::served::Served;
use super::{Gateway, GatewaySettings};
use crate::client::{BuildError, Reranker};

/// The workers of one subject.
pub(super) struct Backend {
    /// The name that requests choose it by; `None`: the one for all others.
    pub(super) name: Option<String>,
    pub(super) reranker: Reranker,
    pub(super) served: Served,
}

impl Backend {
    /// Made at once; connects in the background.
    pub(super) async fn connect(
        settings: &GatewaySettings,
        name: Option<&str>,
        subject: &str,
    ) -> Result<Backend, BuildError> {
        let mut builder = Reranker::builder()
            .connection(settings.connection.clone())
            .subject(subject)
            .budget(settings.timeout)
            .enabled(settings.enabled)
            // The settings have it already.
            .read_environment(false);
        if let Some(bucket) = &settings.switch_bucket {
            builder = builder.switch_bucket(bucket);
        }
        if let Some(domain) = &settings.switch_domain {
            builder = builder.switch_domain(domain);
        }
        if let Some(pairs) = settings.split_pairs {
            builder = builder.split_pairs(pairs);
        }
        Ok(Backend {
            name: name.map(str::to_owned),
            reranker: builder.connect_lazy().await?,
            served: Served::new(&settings.service_name, subject),
        })
    }

    /// The name it is listed under: its own, else that of the model that answers.
    pub(super) async fn listed_name(&self) -> Option<String> {
        match &self.name {
            Some(name) => Some(name.clone()),
            None => self.served.model(&self.reranker).await,
        }
    }
}

impl Gateway {
    /// The workers for a request that names this model, and the name that they are held to.
    pub(super) fn choose<'a>(&self, named: Option<&'a str>) -> (&Backend, Option<&'a str>) {
        let known = self
            .models
            .iter()
            .find(|backend| backend.name.as_deref() == named && named.is_some());
        match known {
            // The subject is the model.
            Some(backend) => (backend, None),
            None if self.settings.any_model => (&self.default, None),
            None => (&self.default, named),
        }
    }

    /// Every model, the default one first.
    pub(super) fn backends(&self) -> impl Iterator<Item = &Backend> {
        std::iter::once(&self.default).chain(&self.models)
    }
}
