//! Parses the OTEL_* variables as the OpenTelemetry specification defines them.
//!
//! ```text
//! OTEL_EXPORTER_OTLP_TRACES_X, else OTEL_EXPORTER_OTLP_X ┐
//! OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES            ├─ parse ─▶ OtelEnv + warnings
//! OTEL_SPAN_*_LIMIT, OTEL_SDK_DISABLED                   ┘
//! ```
//!
//! An empty variable counts as unset. An invalid variable is ignored with a warning, which never
//! shows a value that may be a secret.

use std::path::PathBuf;
use std::time::Duration;

use indexmap::IndexMap;
use percent_encoding::percent_decode_str;

use super::expand::Env;
use super::fault::Fault;
use crate::base::ids::TraceParent;
use crate::base::units::Secret;
use crate::converter::limits::SpanLimits;
use crate::exporter::config::Compression;
pub(crate) use crate::exporter::config::Protocol;

/// The settings in the environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OtelEnv {
    /// `OTEL_SDK_DISABLED=true`: nothing is sent.
    pub(crate) disabled: bool,
    pub(crate) service_name: Option<String>,
    pub(crate) resource_attributes: Vec<(String, String)>,
    /// For traces: from variables for traces, else for all signals.
    pub(crate) traces: OtlpEnv,
    /// For logs: from variables for logs only.
    pub(crate) logs: OtlpEnv,
    /// From variables for all signals.
    pub(crate) generic: OtlpEnv,
    pub(crate) limits: SpanLimits,
    /// `TRACEPARENT`: the trace context of the job.
    pub(crate) triggered_by: Option<TraceParent>,
}

/// How one signal is sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OtlpEnv {
    pub(crate) endpoint: Option<EndpointEnv>,
    pub(crate) protocol: Option<Protocol>,
    pub(crate) headers: IndexMap<String, Secret>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) compression: Option<Compression>,
    pub(crate) insecure: Option<bool>,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) client_key: Option<PathBuf>,
    pub(crate) client_certificate: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EndpointEnv {
    pub(crate) url: String,
    /// Whether the variable is for one signal. Such an endpoint is used without appending a path.
    pub(crate) exact: bool,
}

/// Reads all variables. Returns the settings and warnings.
pub(crate) fn parse(env: Env) -> (OtelEnv, Vec<Fault>) {
    let mut reader = Reader { env, warnings: Vec::new() };
    let otel = OtelEnv {
        disabled: reader.first(&["OTEL_SDK_DISABLED"], boolean).unwrap_or(false),
        service_name: reader.first(&["OTEL_SERVICE_NAME"], text),
        resource_attributes: reader
            .first(&["OTEL_RESOURCE_ATTRIBUTES"], attributes)
            .unwrap_or_default(),
        traces: reader.otlp_env(&["_TRACES", ""]),
        logs: reader.otlp_env(&["_LOGS"]),
        generic: reader.otlp_env(&[""]),
        limits: reader.limits(),
        triggered_by: reader
            .first(&["TRACEPARENT"], |text| text.parse().map_err(|error: &str| error.to_owned())),
    };
    (otel, reader.warnings)
}

struct Reader<'a> {
    env: Env<'a>,
    warnings: Vec<Fault>,
}

impl Reader<'_> {
    /// Reads each variable in the first of these forms that is set.
    fn otlp_env(&mut self, forms: &[&str]) -> OtlpEnv {
        let endpoint = forms.iter().find_map(|form| {
            let url = self.first(&[&format!("OTEL_EXPORTER_OTLP{form}_ENDPOINT")], text)?;
            Some(EndpointEnv { url, exact: !form.is_empty() })
        });
        OtlpEnv {
            endpoint,
            protocol: self.otlp(forms, "PROTOCOL", str::parse),
            headers: self.headers(forms),
            timeout: self.otlp(forms, "TIMEOUT", milliseconds),
            compression: self.otlp(forms, "COMPRESSION", str::parse),
            insecure: self.otlp(forms, "INSECURE", boolean),
            ca_file: self.otlp(forms, "CERTIFICATE", path),
            client_key: self.otlp(forms, "CLIENT_KEY", path),
            client_certificate: self.otlp(forms, "CLIENT_CERTIFICATE", path),
        }
    }

    fn limits(&mut self) -> SpanLimits {
        SpanLimits {
            attribute_count: self
                .first(&["OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "OTEL_ATTRIBUTE_COUNT_LIMIT"], count),
            event_count: self.first(&["OTEL_SPAN_EVENT_COUNT_LIMIT"], count),
            link_count: self.first(&["OTEL_SPAN_LINK_COUNT_LIMIT"], count),
            attribute_value_length: self.first(
                &["OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT"],
                count,
            ),
        }
    }

    /// Reads the headers. An invalid pair is ignored and the others are kept: a typing error in one
    /// header must not cost the tenant's.
    fn headers(&mut self, forms: &[&str]) -> IndexMap<String, Secret> {
        let pairs = |text: &str| Ok(text.split(',').map(pair).collect::<Vec<_>>());
        let pairs = self.otlp(forms, "HEADERS", pairs).unwrap_or_default();
        let mut headers = IndexMap::new();
        for (index, pair) in pairs.into_iter().enumerate() {
            match pair {
                Some((name, value)) => {
                    headers.insert(name, Secret::new(value));
                }
                None => self.warn(format!(
                    "the OTLP headers variable: entry {} is not name=value and is ignored (write \
                     `Authorization=Basic%20…`, not `Authorization: Basic …`)",
                    index + 1
                )),
            }
        }
        headers
    }

    fn otlp<T>(
        &mut self,
        forms: &[&str],
        name: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let names: Vec<String> =
            forms.iter().map(|form| format!("OTEL_EXPORTER_OTLP{form}_{name}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.first(&names, read)
    }

    /// Returns the first of `names` that is set and valid.
    fn first<T>(&mut self, names: &[&str], read: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        for name in names {
            let Some(value) = (self.env)(name) else {
                continue;
            };
            match value.trim() {
                "" => {}
                value => match read(value) {
                    Ok(value) => return Some(value),
                    Err(problem) => self.warn(format!("{name} {problem}; it is ignored")),
                },
            }
        }
        None
    }

    fn warn(&mut self, message: String) {
        let warning = Fault::nowhere(message);
        // The variables for all signals are read once per signal.
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }
}

fn text(value: &str) -> Result<String, String> {
    Ok(value.to_owned())
}

fn path(value: &str) -> Result<PathBuf, String> {
    Ok(value.into())
}

fn boolean(value: &str) -> Result<bool, String> {
    match value.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("has to be true or false".into()),
    }
}

fn count(value: &str) -> Result<usize, String> {
    value.parse().map_err(|_| "has to be a whole number, 0 or more".into())
}

fn milliseconds(value: &str) -> Result<Duration, String> {
    match value.parse() {
        Ok(count @ 1..) => Ok(Duration::from_millis(count)),
        _ => Err("has to be a number of milliseconds, 1 or more".into()),
    }
}

/// Parses all pairs. One invalid pair makes all of them invalid, as the specification requires.
fn attributes(value: &str) -> Result<Vec<(String, String)>, String> {
    value
        .split(',')
        .map(|entry| {
            let (key, value) = pair(entry)?;
            Some((decoded(&key)?, value))
        })
        .collect::<Option<_>>()
        .ok_or_else(|| "has to be key=value,key=value, percent-encoded".into())
}

/// Parses `name=value`, where the value is percent-encoded. A name must be a token (RFC 9110,
/// section 5.6.2), so that a value is not mistaken for a name: `Authorization: Basic dXNlcg==`
/// contains a `=`, but is not a pair.
fn pair(entry: &str) -> Option<(String, String)> {
    let (name, value) = entry.split_once('=')?;
    let name = name.trim();
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    (!name.is_empty() && name.chars().all(is_token)).then_some(())?;
    Some((name.to_owned(), decoded(value.trim())?))
}

/// Percent-decodes. `None` for a `%` without two digits, or if the result is not UTF-8.
fn decoded(text: &str) -> Option<String> {
    let whole = text.split('%').skip(1).all(|after| {
        let digits = after.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    });
    whole.then(|| percent_decode_str(text).decode_utf8().ok().map(Into::into))?
}

#[cfg(test)]
mod tests;
