//! What the service logs: its own lines, and for each mount what its worker and its supervisor say. A process that holds a
//! mount in its terminal logs the latter.
//!
//! Logging is best effort: a line that cannot be written, for want of room or of a file, is dropped, and nobody
//! waits or fails for it.

mod datagram;
mod file;
mod sink;

use std::fmt::Write as _;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Span, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::{DefaultFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FormatFields as _, FormattedFields};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::error::{CliError, Result};
use crate::record::Record;
use crate::runtime::RuntimeDir;
use crate::settings::ServiceSettings;
use sink::Sink;

/// What is logged until the settings are known.
const FIRST_FILTER: &str = "info";

/// Lets the spans pass, whatever is logged, that say which mount a line is about.
const SPANS: &str = "selvedge::mount=error";

/// Under which target the worker's own lines come.
const WORKER: &str = "selvedge::worker";

/// Everything that is logged while it is entered, or by threads that are started meanwhile, is about the mount of
/// `record`.
pub(crate) fn span_of(record: &Record) -> Span {
    let id: String = record.thread_id.chars().take(8).collect();
    let log = format!("{}-{id}", record.thread);
    tracing::error_span!(target: "selvedge::mount", "mount", log)
}

/// Where log lines go, and which do. Copies are one and the same.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    sink: Arc<Mutex<Sink>>,
    filter: reload::Handle<EnvFilter, Registry>,
}

impl Log {
    /// Logs to standard error everything of interest.
    pub(super) fn start() -> Result<Self> {
        let (log, lines) = Self::new(&format!("{FIRST_FILTER},{SPANS}"));
        tracing_subscriber::registry().with(lines).try_init().map_err(|error| {
            CliError::failed(format!("cannot start logging: {error}")).hint("report this")
        })?;
        Ok(log)
    }

    /// One that logs nothing until [`Self::to_mounts`] says where to, and the layer that hands it lines.
    pub(crate) fn unused() -> (Self, impl Layer<Registry> + Send + Sync) {
        Self::new("off")
    }

    fn new(filter: &str) -> (Self, impl Layer<Registry> + Send + Sync + use<>) {
        let sink = Arc::new(Mutex::new(Sink::default()));
        let (filter, handle) = reload::Layer::new(EnvFilter::new(filter));
        let lines = Lines { sink: Arc::clone(&sink) }.with_filter(filter);
        (Self { sink, filter: handle }, lines)
    }

    /// Logs to their files, from now on, what is said of mounts.
    pub(crate) fn to_mounts(&self, runtime: &Arc<RuntimeDir>, settings: &ServiceSettings) {
        self.lock().open_mounts(runtime);
        self.set(settings);
    }

    /// Logs as `settings` say from now on; a filter that makes no sense has been refused before.
    pub(super) fn set(&self, settings: &ServiceSettings) {
        if let Ok(filter) = EnvFilter::try_new(format!("{},{SPANS}", settings.log_filter)) {
            let _ = self.filter.reload(filter);
        }
        self.lock().set(settings);
    }

    /// Logs to where a service in the background does from now on, and gives the service's own file, for standard
    /// error.
    pub(super) fn to_background(&self, runtime: &Arc<RuntimeDir>) -> io::Result<OwnedFd> {
        self.lock().open(runtime)
    }

    fn lock(&self) -> MutexGuard<'_, Sink> {
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes lines from where they come from to the sink.
#[derive(Debug)]
struct Lines {
    sink: Arc<Mutex<Sink>>,
}

/// Which mount a span is about, as the name of its log.
#[derive(Debug, Clone)]
struct MountLog(String);

impl Visit for MountLog {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "log" {
            value.clone_into(&mut self.0);
        }
    }

    fn record_debug(&mut self, _field: &Field, _value: &dyn std::fmt::Debug) {}
}

/// A line of the log.
#[derive(Debug)]
struct Line {
    level: Level,
    /// When, as text.
    time: String,
    /// What was said, without an end of line.
    text: String,
    /// The mount it is about.
    mount: Option<String>,
    /// Whether it is the worker's.
    by_worker: bool,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if attributes.metadata().target() != "selvedge::mount" {
            return;
        }
        let mut log = MountLog(String::new());
        attributes.record(&mut log);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(log);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mount = context.event_scope(event).and_then(|mut scope| {
            scope.find_map(|span| span.extensions().get::<MountLog>().map(|log| log.0.clone()))
        });
        let mut time = String::new();
        // Writing into a text cannot fail, and a clock that cannot be read is no reason to say nothing.
        let _ = SystemTime.format_time(&mut Writer::new(&mut time));
        let line = Line {
            level: *event.metadata().level(),
            time,
            text: text_of(event),
            mount,
            by_worker: event.metadata().target() == WORKER,
        };
        self.sink.lock().unwrap_or_else(PoisonError::into_inner).write(&line);
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let log = context.span(&id).and_then(|span| span.extensions().get::<MountLog>().cloned());
        if let Some(log) = log {
            self.sink.lock().unwrap_or_else(PoisonError::into_inner).close(&log.0);
        }
    }
}

/// What an event says: its message, and its fields behind.
fn text_of(fields: impl RecordFields) -> String {
    let mut formatted = FormattedFields::<DefaultFields>::new(String::new());
    let mut text = String::new();
    let _ = DefaultFields::new().format_fields(formatted.as_writer(), fields);
    let _ = write!(text, "{formatted}");
    text
}
