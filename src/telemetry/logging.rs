//! Logs as text or JSON, and spans to an OpenTelemetry collector when one is configured.

use std::{io::IsTerminal, time::Duration};

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    trace::{SdkTracerProvider, SpanData, SpanExporter as Export},
};
use tokio::runtime::Handle;
use tracing_subscriber::{EnvFilter, Layer, fmt::format::JsonFields, layer::SubscriberExt, util::SubscriberInitExt};

use super::lines::{JsonLines, Lossy, text_fields};

use crate::net::{ClientError, exporting};

/// How long a collector may take over one batch of spans.
const EXPORT: Duration = Duration::from_secs(10);

/// How log lines are written to standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object a line.
    Json,
}

#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    #[error("OSTLER_LOG={value:?} is no filter ({cause}): write a level such as `debug`, or `ostler=debug,kube=info`")]
    Filter { value: String, cause: String },
    #[error("can't export spans to OTEL_EXPORTER_OTLP_ENDPOINT ({0}): correct it, or unset it to export nothing")]
    Export(String),
    #[error("logging is set up already: {0}")]
    Twice(String),
}

/// Set up logging; [`Logging::flush`] before the process ends.
#[derive(Debug, Default)]
pub struct Logging {
    spans: Option<SdkTracerProvider>,
}

impl Logging {
    /// Logs to standard error what `OSTLER_LOG` lets through (`default_filter` when it is unset), and exports spans over OTLP
    /// (HTTP, protobuf) when `OTEL_EXPORTER_OTLP_ENDPOINT` is set. Call it inside the tokio runtime.
    pub fn start(format: LogFormat, default_filter: &str) -> Result<Self, LoggingError> {
        let value = std::env::var("OSTLER_LOG").unwrap_or_default();
        let filter = filter(if value.is_empty() { default_filter } else { &value })?;
        let layer = tracing_subscriber::fmt::layer().with_writer(Lossy);
        let lines = match format {
            LogFormat::Text => {
                let ansi = std::io::stderr().is_terminal();
                layer.with_target(false).with_ansi(ansi).fmt_fields(text_fields()).boxed()
            }
            LogFormat::Json => layer.with_ansi(false).fmt_fields(JsonFields::new()).event_format(JsonLines).boxed(),
        };
        let spans = exporter()?;
        let export =
            spans.as_ref().map(|provider| tracing_opentelemetry::layer().with_tracer(provider.tracer("ostler")));
        tracing_subscriber::registry()
            .with(filter)
            .with(lines)
            .with(export)
            .try_init()
            .map_err(|e| LoggingError::Twice(e.to_string()))?;
        Ok(Self { spans })
    }

    /// Sends what is still to be exported. Blocks for some seconds at most.
    pub fn flush(self) {
        if let Some(Err(error)) = self.spans.map(|provider| provider.shutdown()) {
            tracing::warn!(%error, "spans lost at exit");
        }
    }
}

fn filter(value: &str) -> Result<EnvFilter, LoggingError> {
    EnvFilter::builder()
        .parse(value)
        .map_err(|e| LoggingError::Filter { value: value.to_owned(), cause: e.to_string() })
}

/// The provider of spans, when the environment names a collector.
fn exporter() -> Result<Option<SdkTracerProvider>, LoggingError> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let url = set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(|| set("OTEL_EXPORTER_OTLP_ENDPOINT"));
    let Some(url) = url else { return Ok(None) };
    crate::net::install_crypto();
    let failed = |error: ClientError| LoggingError::Export(error.to_string());
    let inner = SpanExporter::builder()
        .with_http()
        .with_http_client(exporting(&url, EXPORT).map_err(failed)?)
        .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
        .build()
        .map_err(|e| LoggingError::Export(e.to_string()))?;
    let runtime = Handle::try_current().map_err(|e| LoggingError::Export(e.to_string()))?;
    let version = opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = Resource::builder().with_attribute(version);
    // The builder reads the variable itself, and a name that is given here would win over it.
    let resource =
        if set("OTEL_SERVICE_NAME").is_some() { resource } else { resource.with_service_name("ostler") }.build();
    Ok(Some(
        SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(OnRuntime { inner, runtime }).build(),
    ))
}

/// The batch processor exports from a thread of its own, where the HTTP client finds no reactor: this hands it ours.
#[derive(Debug)]
struct OnRuntime {
    inner: SpanExporter,
    runtime: Handle,
}

impl Export for OnRuntime {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        // Blocks the processor's own thread, which waits for this future and does nothing else.
        if Handle::try_current().is_ok() {
            return Err(OTelSdkError::InternalFailure("spans can't be exported from within the runtime".to_owned()));
        }
        self.runtime.block_on(self.inner.export(batch))
    }

    fn shutdown(&self) -> OTelSdkResult {
        self.inner.shutdown()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_is_none_is_named_with_its_variable() {
        assert!(filter("info").is_ok());
        assert!(filter("ostler=debug,kube=info").is_ok());
        let error = filter("ostler=loud=very").unwrap_err().to_string();
        assert!(error.contains("OSTLER_LOG") && error.contains("loud"), "{error}");
    }
}
