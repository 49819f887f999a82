//! The recorder behind the `metrics` facade, and Prometheus' text of what it holds. A program that serves `/metrics`
//! installs it once.

use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use super::names::{Kind, Metric};

/// The content type of Prometheus' text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How often histograms that nobody scrapes are folded, so that they do not grow.
const UPKEEP: Duration = Duration::from_secs(5);

/// Installs the recorder of this process, with the buckets of these metrics. Describing them is up to their module.
///
/// # Errors
/// The process has a recorder already.
pub fn install(lists: &[&[Metric]]) -> Result<PrometheusHandle, BuildError> {
    let mut builder = PrometheusBuilder::new();
    for metric in lists.iter().copied().flatten() {
        if let Kind::Histogram(buckets) = metric.kind {
            builder = builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), buckets)?;
        }
    }
    builder.install_recorder()
}

/// Keeps the recorder small, for as long as it is polled.
pub async fn upkeep(metrics: &PrometheusHandle) {
    loop {
        tokio::time::sleep(UPKEEP).await;
        metrics.run_upkeep();
    }
}
