//! Builds one span and applies the limits to it.

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link, SpanKind};
use opentelemetry_proto::tonic::trace::v1::{Span, Status, status::StatusCode};

use super::attributes::Truncator;
use super::options::SpanNames;
use crate::base::clock::UnixNanos;
use crate::base::ids::{SpanId, TaskId, TaskType, TraceId};
use crate::converter::limits::SpanLimits;

/// A span before limits are applied.
pub(crate) struct SpanBuilder<'a> {
    pub(crate) task_type: TaskType,
    pub(crate) task_id: &'a TaskId,
    pub(crate) span_id: SpanId,
    pub(crate) title: &'a str,
    pub(crate) parent: Option<(TaskType, &'a TaskId)>,
    pub(crate) start: UnixNanos,
    pub(crate) end: UnixNanos,
    pub(crate) done: bool,
    pub(crate) cutter: Truncator,
    pub(crate) attributes: Vec<KeyValue>,
    /// Number of attributes that every span has.
    pub(crate) fixed: usize,
    pub(crate) events: Vec<Event>,
    pub(crate) links: Vec<Link>,
}

impl SpanBuilder<'_> {
    pub(crate) fn string(&mut self, key: &str, value: &str) {
        let attribute = self.cutter.string(key, value);
        self.attributes.push(attribute);
    }

    pub(crate) fn known_string(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.string(key, value);
        }
    }

    /// Builds the span and applies the limits of the environment.
    pub(crate) fn into_span(
        mut self,
        trace_id: TraceId,
        names: SpanNames,
        limits: &SpanLimits,
    ) -> Span {
        // Insert before the parameters: a limit on the number of attributes drops from the end.
        let at = self.fixed.min(self.attributes.len());
        if let Some(truncated) = self.cutter.truncated() {
            self.attributes.insert(at, truncated);
        }

        let parent = self.parent.map(|(task_type, id)| trace_id.span(task_type, id));
        let code = if self.done { StatusCode::Ok } else { StatusCode::Unset };
        Span {
            trace_id: trace_id.bytes().to_vec(),
            span_id: self.span_id.bytes().to_vec(),
            parent_span_id: parent.map(|id| id.bytes().to_vec()).unwrap_or_default(),
            name: match names {
                SpanNames::Readable if self.task_type == TaskType::Task => self.task_id.to_string(),
                SpanNames::Readable => self.title.to_owned(),
                SpanNames::LowCardinality => {
                    format!("contextcore.task.{}", self.task_type.as_str())
                }
            },
            kind: SpanKind::Internal.into(),
            start_time_unix_nano: self.start.0,
            end_time_unix_nano: self.end.0,
            dropped_attributes_count: drop_over(&mut self.attributes, limits.attribute_count),
            attributes: self.attributes,
            dropped_events_count: {
                in_order(&mut self.events, self.start);
                drop_over(&mut self.events, limits.event_count)
            },
            events: self.events,
            dropped_links_count: drop_over(&mut self.links, limits.link_count),
            links: self.links,
            status: Some(Status { code: code.into(), ..Status::default() }),
            ..Span::default()
        }
    }
}

/// Sets the times of a span's events, 1 µs apart from `start` on, and returns the time after the
/// last one. Backends may sort events of equal time by name.
pub(crate) fn in_order(events: &mut [Event], start: UnixNanos) -> UnixNanos {
    let mut time = start;
    for event in events {
        event.time_unix_nano = time.0;
        time = time.plus_micros(1);
    }
    time
}

/// Truncates a list to its limit and returns how many elements were dropped, as OTLP counts them.
fn drop_over<T>(list: &mut Vec<T>, limit: Option<usize>) -> u32 {
    let Some(over) = limit.and_then(|limit| list.len().checked_sub(limit)) else {
        return 0;
    };
    list.truncate(list.len() - over);
    u32::try_from(over).unwrap_or(u32::MAX)
}
