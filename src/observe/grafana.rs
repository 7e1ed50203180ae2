//! Links to traces in Grafana.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

use crate::base::ids::TraceId;
use crate::config::Service;

/// A Grafana with a Tempo data source.
#[derive(Clone, Debug)]
pub(crate) struct Grafana {
    pub(crate) url: String,
    pub(crate) datasource: String,
}

impl Grafana {
    /// Returns the configured Grafana, if any.
    pub(crate) fn of(service: &Service) -> Option<Grafana> {
        let url = service.grafana_url.clone()?;
        Some(Grafana { url, datasource: service.grafana_datasource.clone() })
    }

    /// Returns the link to the trace in Grafana's Explore.
    pub(crate) fn link(&self, trace_id: TraceId) -> String {
        let Grafana { url, datasource } = self;
        let panes = json!({"taskspan": {
            "datasource": datasource,
            "queries": [{
                "refId": "A",
                "datasource": {"type": "tempo", "uid": datasource},
                "queryType": "traceql",
                "query": trace_id.to_string(),
            }],
            "range": {"from": "now-1h", "to": "now"},
        }});
        let panes = panes.to_string();
        let panes = utf8_percent_encode(&panes, NON_ALPHANUMERIC);
        format!("{}/explore?schemaVersion=1&panes={panes}", url.trim_end_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_to_the_trace() {
        let grafana = Grafana { url: "https://g.example.com/".into(), datasource: "tempo".into() };
        let trace_id = TraceId::from_hex("0af7651916cd43dd8448eb211c80319c").expect("an id");
        let link = grafana.link(trace_id);
        assert!(link.starts_with("https://g.example.com/explore?schemaVersion=1&panes=%7B"));
        assert!(link.contains("0af7651916cd43dd8448eb211c80319c") && !link.contains('"'));
    }
}
