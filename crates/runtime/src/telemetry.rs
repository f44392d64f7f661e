//! What the process tells: log lines on standard error, spans to a collector, and the trace that travels with calls.

use std::{fmt, time::Duration};

use guildhall_domain::{Error, Result, TraceContext};
use opentelemetry::{
    Context, KeyValue,
    propagation::{Extractor, Injector, TextMapPropagator},
    trace::{TraceContextExt, TracerProvider},
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{Resource, propagation::TraceContextPropagator, trace::SdkTracerProvider};
use tracing::{Event, Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{
    EnvFilter, Layer,
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{Format, Json, JsonFields, Writer},
    },
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

/// A collector that is away may not hold up a call, nor the shutdown.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

#[derive(Debug, Clone)]
pub struct TelemetryOptions {
    /// The name under which a collector knows the process: `guildhall-gateway`.
    pub service: String,
    pub log_format: LogFormat,
    /// As in RUST_LOG: `info,sqlx=warn`.
    pub log_filter: String,
    /// gRPC address of an OpenTelemetry collector; `None`: no spans are sent.
    pub otlp_endpoint: Option<String>,
}

impl TelemetryOptions {
    pub fn new(service: impl Into<String>) -> Self {
        Self { service: service.into(), log_format: LogFormat::Text, log_filter: "info".into(), otlp_endpoint: None }
    }
}

/// Holds what has to be flushed at the end.
#[must_use = "spans are lost unless it is flushed at the end"]
pub struct Telemetry {
    spans: Option<SdkTracerProvider>,
}

/// Once a process, within a tokio runtime.
pub fn init(options: &TelemetryOptions) -> Result<Telemetry> {
    let filter = EnvFilter::try_new(&options.log_filter)
        .map_err(|e| Error::invalid(format!("telemetry.log_filter {:?} is not valid: {e}", options.log_filter)))?;
    let spans =
        options.otlp_endpoint.as_deref().map(|endpoint| span_provider(&options.service, endpoint)).transpose()?;
    let traced = spans.as_ref().map(|p| tracing_opentelemetry::layer().with_tracer(p.tracer("guildhall")));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match options.log_format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => {
            lines.fmt_fields(JsonFields::new()).event_format(JsonWithTrace(Format::default().json())).boxed()
        }
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(traced)
        .with(lines)
        .try_init()
        .map_err(|e| Error::internal(format!("cannot set up logging: {e}")))?;
    log_panics();
    Ok(Telemetry { spans })
}

impl Telemetry {
    /// Sends what is still held back, when all else has ended. Takes a few seconds at most.
    pub async fn flush(self) {
        let Some(spans) = self.spans else { return };
        let sent = tokio::task::spawn_blocking(move || spans.shutdown_with_timeout(EXPORT_TIMEOUT)).await;
        if let Ok(Err(error)) = sent {
            tracing::warn!("the last spans could not be sent: {error}");
        }
    }
}

fn span_provider(service: &str, endpoint: &str) -> Result<SdkTracerProvider> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(|e| Error::invalid(format!("telemetry.otlp_endpoint {endpoint:?} cannot be used: {e}")))?;
    let resource = Resource::builder()
        .with_service_name(service.to_owned())
        .with_attribute(KeyValue::new("service.namespace", "guildhall"))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

/// A panic becomes a log line of the chosen format, so that it is not lost among others.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
}

/// The trace that the current span is part of; empty when nothing is traced.
pub fn current_trace() -> TraceContext {
    trace_of(&Span::current())
}

pub fn trace_of(span: &Span) -> TraceContext {
    let context = span.context();
    let mut carrier = Carrier(TraceContext::default());
    if context.span().span_context().is_valid() {
        TraceContextPropagator::new().inject_context(&context, &mut carrier);
    }
    carrier.0
}

/// Makes `span`, which must not have been entered yet, part of a trace that came from elsewhere.
pub fn set_parent(span: &Span, trace: &TraceContext) {
    if !trace.traceparent.is_empty() {
        let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &Carrier(trace.clone()));
        // Fails when no spans are collected: then there is nothing to be a part of.
        let _ = span.set_parent(context);
    }
}

struct Carrier(TraceContext);

impl Injector for Carrier {
    fn set(&mut self, key: &str, value: String) {
        match key {
            "traceparent" => self.0.traceparent = value,
            "tracestate" => self.0.tracestate = value,
            _ => {}
        }
    }
}

impl Extractor for Carrier {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => Some(&self.0.traceparent),
            "tracestate" if !self.0.tracestate.is_empty() => Some(&self.0.tracestate),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

/// tracing-subscriber's JSON lines, with the ids by which a line is found from its trace and back.
struct JsonWithTrace(Format<Json>);

impl<S, N> FormatEvent<S, N> for JsonWithTrace
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = String::new();
        self.0.format_event(ctx, Writer::new(&mut line), event)?;
        let context = Context::current();
        let span = context.span();
        let ids = span.span_context();
        match line.strip_prefix('{') {
            Some(rest) if ids.is_valid() => {
                let (trace, span) = (ids.trace_id(), ids.span_id());
                write!(writer, r#"{{"trace_id":"{trace}","span_id":"{span}",{rest}"#)
            }
            _ => writer.write_str(&line),
        }
    }
}
