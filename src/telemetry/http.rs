//! Requests by endpoint: patterns of paths, usual methods and classes of statuses, so that no stranger can make a series.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Labels of how long requests take.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndpointLabels {
    endpoint: &'static str,
    method: &'static str,
}

/// Labels of their number.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AnswerLabels {
    endpoint: &'static str,
    method: &'static str,
    status: &'static str,
}

/// What is told of requests; clones count together.
#[derive(Clone)]
pub struct HttpMetrics {
    answers: Family<AnswerLabels, Counter>,
    duration: Family<EndpointLabels, Histogram>,
}

impl Default for HttpMetrics {
    fn default() -> Self {
        Self {
            answers: Family::default(),
            // From half a millisecond to four seconds.
            duration: Family::new_with_constructor(|| Histogram::new(exponential_buckets(500e-6, 2.0, 14))),
        }
    }
}

impl HttpMetrics {
    /// A request was answered with a status of this class, so long after its head had come.
    pub fn answered(&self, endpoint: &'static str, method: &'static str, status: &'static str, took: Duration) {
        let labels = AnswerLabels {
            endpoint,
            method,
            status,
        };
        self.answers.get_or_create(&labels).inc();
        let labels = EndpointLabels { endpoint, method };
        self.duration.get_or_create(&labels).observe(took.as_secs_f64());
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "http_requests",
            "Answers by endpoint, method and class of status",
            self.answers.clone(),
        );
        registry.register_with_unit(
            "http_request_duration",
            "Time from a request's head to its answer, by endpoint and method",
            Unit::Seconds,
            self.duration.clone(),
        );
    }
}
