//! The resource that every request carries.

use opentelemetry_proto::tonic::resource::v1::Resource;

use super::attributes::Truncator;
use super::options::ResourceConfig;
use crate::plan::Project;

const SERVICE_NAME: &str = "service.name";
const DEFAULT_SERVICE_NAME: &str = "contextcore-export";

/// Attributes that describe taskspan and the export. Configuration cannot override them.
const OWN: [&str; 4] =
    ["project.id", "project.name", "telemetry.distro.name", "telemetry.distro.version"];

/// Makes the resource. It has no `service.instance.id`, because each value would open another log
/// stream in Loki.
pub(crate) fn resource(
    config: &ResourceConfig,
    project: &Project,
    mut cutter: Truncator,
) -> Resource {
    let service = config.attributes.get(SERVICE_NAME).map_or(DEFAULT_SERVICE_NAME, String::as_str);
    let mut attributes = vec![
        cutter.string(SERVICE_NAME, service),
        cutter.string(OWN[0], &project.id),
        cutter.string(OWN[1], &project.name),
        cutter.string(OWN[2], env!("CARGO_PKG_NAME")),
        cutter.string(OWN[3], env!("CARGO_PKG_VERSION")),
    ];
    let reserved = |key: &str| key == SERVICE_NAME || OWN.contains(&key);
    let added = config.attributes.iter().filter(|(key, _)| !reserved(key));
    attributes.extend(added.map(|(key, value)| cutter.string(key, value)));
    Resource { attributes, ..Resource::default() }
}
