//! Settings that are allowed and still look like a mistake.

use std::path::Path;

use super::forms;
use super::settings::Config;
use super::{DeviceChoice, PrecisionChoice};
use crate::folder::{expanded, is_path_like};

impl Config {
    /// One line for each setting or combination that is allowed but hardly meant. Reads nothing, and holds no secret.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut warn = |when: bool, text: String| {
            if when {
                warnings.push(text);
            }
        };
        warn(
            !self.enabled,
            "enabled = false: the worker takes no requests".to_owned(),
        );
        let nats = &self.nats;
        let login = nats.password.is_some()
            || nats.token.is_some()
            || nats.password_file.is_some()
            || nats.token_file.is_some();
        for url in &nats.urls {
            warn(
                (login || forms::has_user(url.expose()))
                    && !nats.tls_required
                    && forms::is_open_and_remote(url.expose()),
                format!("a password or token goes to {url} without TLS: use tls:// or nats.tls_required = true"),
            );
        }
        let gateway = &self.gateway;
        warn(
            !gateway.listen.ip().is_loopback() && gateway.token.is_none() && gateway.token_file.is_none(),
            format!(
                "gateway.listen = {} is open to other machines, and without gateway.token anybody there may ask",
                gateway.listen
            ),
        );
        let (grace, default) = (self.shutdown.grace, self.limits.default_timeout);
        warn(
            grace < default,
            format!(
                "shutdown.grace_ms = {} is below limits.default_timeout_ms = {}: a stop may refuse requests that could \
                 still be answered",
                grace.as_millis(),
                default.as_millis()
            ),
        );
        let window = self.batch.window;
        warn(
            window * 2 > default,
            format!(
                "batch.window_ms = {} is more than half of limits.default_timeout_ms = {}: requests spend their budget \
                 waiting",
                window.as_millis(),
                default.as_millis()
            ),
        );
        let model = &self.model;
        warn(
            model.device == DeviceChoice::Cpu && model.precision == PrecisionChoice::Fp16,
            "model.precision = \"fp16\" is slow on a CPU: use auto, fp32 or bf16".to_owned(),
        );
        warn(
            model.fallback_ids.contains(&model.id),
            format!("model.fallback_ids names model.id = {:?} again", model.id),
        );
        warn(
            model
                .hub_endpoint
                .as_deref()
                .is_some_and(|url| url.starts_with("http://"))
                && model.hub_token.is_some(),
            "model.hub_token goes to an http:// hub_endpoint and can be read on the way".to_owned(),
        );
        warnings
    }

    /// One line for each file and model folder the configuration names that is not there. Looks at the file system, opens
    /// nothing.
    pub fn missing_files(&self) -> Vec<String> {
        let nats = &self.nats;
        [
            ("nats.credentials_file", &nats.credentials_file),
            ("nats.nkey_seed_file", &nats.nkey_seed_file),
            ("nats.password_file", &nats.password_file),
            ("nats.token_file", &nats.token_file),
            ("nats.tls_ca_file", &nats.tls_ca_file),
            ("nats.tls_cert_file", &nats.tls_cert_file),
            ("nats.tls_key_file", &nats.tls_key_file),
            ("gateway.token_file", &self.gateway.token_file),
        ]
        .into_iter()
        .filter_map(|(key, path)| Some((key, path.as_deref()?)))
        .filter(|(_, path): &(_, &Path)| !path.is_file())
        .map(|(key, path)| format!("{key} = {:?}: no such file", path.display().to_string()))
        .chain(self.missing_models())
        .collect()
    }

    /// One line for each model that is a folder by its looks and is none, or holds no checkpoint.
    fn missing_models(&self) -> impl Iterator<Item = String> {
        let model = &self.model;
        let fallbacks = model.fallback_ids.iter().map(|id| ("model.fallback_ids", id));
        std::iter::once(("model.id", &model.id))
            .chain(fallbacks)
            .filter_map(|(key, id)| Some(format!("{key} = {id:?}: {}", why_no_model(id.trim())?)))
    }
}

/// Why that id leads to no model, as far as the file system can say; a hub's id is not asked for.
fn why_no_model(id: &str) -> Option<&'static str> {
    let folder = expanded(id);
    if folder.join("config.json").is_file() {
        return None;
    }
    if folder.is_dir() {
        return (id != "builtin").then_some("the folder holds no config.json");
    }
    if is_path_like(id) {
        return Some("no such folder");
    }
    // A hub's ids have one slash at most.
    (id.matches('/').count() > 1).then_some("no such folder, and no hub id `owner/name`")
}
