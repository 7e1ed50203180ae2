//! Paths in JSON. A path need not be UTF-8, and JSON text is.
//!
//! A path that is text is stored as text, any other as its bytes.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serializer};

#[derive(Deserialize)]
#[serde(untagged)]
enum Stored {
    Text(String),
    Bytes(Vec<u8>),
}

pub(crate) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    match path.to_str() {
        Some(text) => serializer.serialize_str(text),
        None => serializer.collect_seq(path.as_os_str().as_bytes()),
    }
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(stored: D) -> Result<PathBuf, D::Error> {
    Ok(match Stored::deserialize(stored)? {
        Stored::Text(text) => text.into(),
        Stored::Bytes(bytes) => OsString::from_vec(bytes).into(),
    })
}

/// The same for a path that may be missing.
pub(crate) mod optional {
    use super::{Deserializer, Path, PathBuf, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        path: &Option<PathBuf>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        super::serialize(path.as_deref().unwrap_or(Path::new("")), serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        stored: D,
    ) -> Result<Option<PathBuf>, D::Error> {
        super::deserialize(stored).map(|path| Some(path).filter(|it| !it.as_os_str().is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use serde::Serialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Both {
        #[serde(with = "super")]
        path: PathBuf,
        #[serde(with = "super::optional", default, skip_serializing_if = "Option::is_none")]
        other: Option<PathBuf>,
    }

    #[test]
    fn every_path_survives_and_text_stays_text() {
        let bytes = PathBuf::from(OsString::from_vec(vec![b'/', 0xff]));
        for (path, other, stored) in [
            ("/a".into(), None, json!({"path": "/a"})),
            (bytes.clone(), Some("/é".into()), json!({"path": [47, 255], "other": "/é"})),
            ("/a".into(), Some(bytes), json!({"path": "/a", "other": [47, 255]})),
        ] {
            let both = Both { path, other };
            assert_eq!(serde_json::to_value(&both).unwrap(), stored);
            assert_eq!(serde_json::from_value::<Both>(stored).unwrap(), both);
        }
    }
}
