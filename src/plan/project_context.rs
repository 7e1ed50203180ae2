//! Parses the ProjectContext: the project's name, owner and epic.

use super::json;

/// The part of the ProjectContext that taskspan uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProjectContext {
    /// `spec.project.name`
    pub(crate) name: Option<String>,
    /// `metadata.name`, the name of the Kubernetes resource.
    pub(crate) resource_name: Option<String>,
    /// `spec.business.owner`
    pub(crate) owner: Option<String>,
    /// `spec.project.epic`
    pub(crate) epic: Option<String>,
}

impl ProjectContext {
    /// Parses the YAML document.
    ///
    /// # Errors
    /// Returns what is wrong and where, to be shown after the file's path.
    pub fn parse(bytes: &[u8]) -> Result<ProjectContext, String> {
        let text = std::str::from_utf8(json::without_bom(bytes))
            .map_err(|error| format!("not UTF-8: {error}"))?;
        let value = taskspan_yaml::parse(text).map_err(|error| error.to_string())?;
        Ok(ProjectContext {
            name: json::word(value.pointer("/spec/project/name")),
            resource_name: json::word(value.pointer("/metadata/name")),
            owner: json::word(value.pointer("/spec/business/owner")),
            epic: json::word(value.pointer("/spec/project/epic")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_owner_and_epic() {
        let text = "metadata: {name: shop}\nspec:\n  project: {id: x, name: Shop, epic: SHOP-1}\n  \
                    business: {owner: team-a}\n";
        let context = ProjectContext::parse(text.as_bytes()).expect("YAML");
        assert_eq!(context.name.as_deref(), Some("Shop"));
        assert_eq!(context.resource_name.as_deref(), Some("shop"));
        assert_eq!(context.owner.as_deref(), Some("team-a"));
        assert_eq!(context.epic.as_deref(), Some("SHOP-1"));
        assert_eq!(ProjectContext::parse(b"spec: 5"), Ok(ProjectContext::default()));
    }
}
