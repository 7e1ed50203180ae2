//! Exports are written as described, and a write-back is checked byte by byte.

use std::fs;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::conventions::check_written_back;
use crate::support::exports::{Checksum, ExportBuilder, Manifest, Style, presets, write_metadata};
use crate::support::program::Program;

#[test]
fn exports_are_deterministic_and_readable() {
    for (name, export) in presets::all() {
        let (first, second) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let one = export.write_into(first.path());
        let other = export.write_into(second.path());
        assert_eq!(one.snapshot.bytes, other.snapshot.bytes, "{name}");
        let metadata: Value = serde_json::from_slice(&one.snapshot.bytes).unwrap();
        assert!(metadata["coverage"].is_object(), "{name}");
        let manifest = fs::read_to_string(one.manifest.unwrap()).unwrap();
        let read: Value = serde_saphyr::from_str(&manifest).unwrap();
        let json = export.clone().manifest(Manifest::Json).write_into(second.path());
        let json = fs::read(json.manifest.unwrap()).unwrap();
        assert_eq!(read, serde_json::from_slice::<Value>(&json).unwrap(), "{name}: YAML and JSON");
    }
}

#[test]
fn styles_differ_in_bytes_and_not_in_meaning() {
    let meaning = |bytes: &[u8]| -> Value {
        serde_json::from_slice(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)).unwrap()
    };
    let export = presets::unicode();
    let plain = export.metadata();
    assert!(plain.is_ascii() && plain.ends_with(b"\n}"));
    for style in Style::ALL {
        assert_eq!(meaning(&export.clone().style(style).metadata()), meaning(&plain), "{style:?}");
    }
    assert!(!export.clone().style(Style::OneLine).metadata().contains(&b'\n'));
    assert!(export.clone().style(Style::Crlf).metadata().ends_with(b"\r\n}"));
    assert!(export.clone().style(Style::Bom).metadata().starts_with(b"\xef\xbb\xbf{"));
    assert!(export.style(Style::TrailingNewline).metadata().ends_with(b"}\n"));
}

#[test]
fn options_show_in_the_metadata() {
    let read =
        |export: &ExportBuilder| -> Value { serde_json::from_slice(&export.metadata()).unwrap() };
    let export = presets::one();
    let right = read(&export)["artifact_manifest_checksum"].clone();
    assert_eq!(right.as_str().unwrap().len(), 64);
    assert_ne!(
        read(&export.clone().checksum(Checksum::Wrong))["artifact_manifest_checksum"],
        right
    );
    let absent = read(&export.clone().checksum(Checksum::Absent));
    assert!(absent.get("artifact_manifest_checksum").is_none());
    assert_eq!(read(&export)["coverage"]["totalRequired"], 1);
    assert_eq!(read(&export.clone().snake_case_coverage())["coverage"]["total_required"], 1);
    assert_eq!(read(&export.clone().empty_project_id())["project_id"], "");
    assert_eq!(
        read(&export.omit("derivation_rules"))["derivation_rules"]["_omitted"],
        "profile=source"
    );
}

#[test]
fn write_back_is_checked_byte_by_byte() {
    let id = "0123456789abcdef0123456789abcdef";
    let keys = |gap: &str, colon: &str| {
        let stamp = "2026-11-23T06:15:00.123Z";
        format!(
            ",{gap}\"task_trace_id\":{colon}\"{id}\",{gap}\"task_emission_timestamp\":{colon}\"{stamp}\""
        )
    };
    let splice = |before: &str, addition: &str| {
        let at = before.trim_end().len() - 1;
        let at = before[..at].trim_end().len();
        format!("{}{addition}{}", &before[..at], &before[at..])
    };
    for (style, gap, colon) in [
        (Style::Indent2, "\n  ", " "),
        (Style::OneLine, "", ""),
        (Style::Crlf, "\r\n  ", " "),
        (Style::Bom, "\n  ", " "),
        (Style::TrailingNewline, "\n  ", " "),
    ] {
        let before = String::from_utf8(presets::one().style(style).metadata()).unwrap();
        let after = splice(&before, &keys(gap, colon));
        let check = |after: &str| check_written_back(before.as_bytes(), after.as_bytes());
        assert_eq!(check(&after), [""; 0], "{style:?}");
        for wrong in [
            before.clone(),
            splice(&before, &keys("\t", colon)),
            after.replace(id, &id.to_uppercase()),
            after.replace("06:15:00.123Z", "06:15:00"),
            after.replace("1.0.0", "1.0.1"),
            format!("{after} "),
            splice(&after, ",\"more\":1"),
        ] {
            assert_eq!(check(&wrong).len(), 1, "{style:?}: {wrong}");
        }
    }
}

#[test]
fn metadata_is_renamed_into_place() {
    let dir = TempDir::new().unwrap();
    write_metadata(dir.path(), b"first");
    let path = write_metadata(dir.path(), b"second").path;
    assert_eq!(fs::read(path).unwrap(), b"second");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temp file stays behind");
}

#[test]
fn the_program_runs_and_its_end_is_seen() {
    let output = Program::new("--version").run();
    assert!(output.code >= 0, "{output:?}");
    let mut running = Program::new("--version").spawn();
    running.kill9();
}
