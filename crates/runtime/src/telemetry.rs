//! What the process tells: log lines on standard error, spans to a collector, and the trace that travels with calls.

use std::{fmt, io::IsTerminal as _, time::Duration};

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
    // Colours are for people, not for files.
    let colours = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colours);
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

#[cfg(test)]
pub(crate) mod tests {
    use std::{io, sync::Arc};

    use parking_lot::Mutex;
    use serde_json::Value;
    use tracing::subscriber::{DefaultGuard, set_default};
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    /// What this thread logs, for as long as it is held.
    pub(crate) struct Lines {
        written: Written,
        _guard: DefaultGuard,
    }

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Written {
        type Writer = Written;
        fn make_writer(&'a self) -> Written {
            self.clone()
        }
    }

    impl Lines {
        pub(crate) fn capture() -> Self {
            let written = Written::default();
            let lines = tracing_subscriber::fmt().with_ansi(false).with_writer(written.clone()).finish();
            Self { written, _guard: set_default(lines) }
        }

        /// JSON, with spans collected (and sent nowhere).
        fn capture_json_traced() -> Self {
            let written = Written::default();
            let tracer = SdkTracerProvider::builder().build().tracer("test");
            let format = JsonWithTrace(Format::default().json());
            let lines = tracing_subscriber::fmt::layer()
                .fmt_fields(JsonFields::new())
                .event_format(format)
                .with_writer(written.clone());
            let traced = tracing_opentelemetry::layer().with_tracer(tracer);
            Self { written, _guard: set_default(tracing_subscriber::registry().with(traced).with(lines)) }
        }

        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.written.0.lock().clone()).unwrap()
        }
    }

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_json_line_carries_the_ids_of_its_trace() {
        let lines = Lines::capture_json_traced();
        tracing::info!("outside");
        let span = tracing::info_span!("call");
        set_parent(&span, &TraceContext { traceparent: PARENT.into(), tracestate: String::new() });
        span.in_scope(|| tracing::info!(answer = 42, "inside"));
        let text = lines.text();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
        assert_eq!(lines[0].get("trace_id"), None);
        assert_eq!(lines[1]["trace_id"], "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(lines[1]["span_id"].as_str().unwrap().len(), 16);
        assert_eq!((&lines[1]["fields"]["answer"], &lines[1]["fields"]["message"]), (&42.into(), &"inside".into()));
    }

    #[test]
    fn a_trace_from_elsewhere_goes_on_and_an_empty_tracestate_stays_away() {
        let _lines = Lines::capture_json_traced();
        let span = tracing::info_span!("call");
        let parent = TraceContext { traceparent: PARENT.into(), tracestate: "a=1".into() };
        set_parent(&span, &parent);
        let own = trace_of(&span);
        assert_eq!(own.traceparent[..36], PARENT[..36], "another trace");
        assert_ne!(own.traceparent, PARENT, "not a span of its own");
        assert_eq!(own.tracestate, "a=1");
        assert_eq!(span.in_scope(current_trace), own);
        assert_eq!(trace_of(&tracing::info_span!(parent: None, "alone")).tracestate, "");
    }

    #[test]
    fn without_a_collector_there_is_no_trace_and_no_fault() {
        let _lines = Lines::capture();
        let span = tracing::info_span!("call");
        set_parent(&span, &TraceContext { traceparent: PARENT.into(), tracestate: String::new() });
        assert_eq!(trace_of(&span), TraceContext::default());
    }

    #[test]
    fn a_bad_filter_is_refused_with_the_name_of_its_key() {
        let options = TelemetryOptions { log_filter: "guildhall=loud".into(), ..TelemetryOptions::new("test") };
        let refused = init(&options).err().unwrap();
        assert!(refused.message.contains("telemetry.log_filter"), "{refused}");
    }
}
