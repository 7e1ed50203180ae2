//! Guarantees:
//!
//! - The rooms of `src/` depend on each other without a cycle.
//! - A stage names no other stage, except the converter, which takes a `Plan`.
//! - No stage names the configuration: `config` builds on the stages, not the other way round.

use std::collections::BTreeSet;
use std::path::Path;

use super::docs::rust_files;

/// Each room, and the rooms that it may name. Only earlier lines are allowed, so there is no cycle.
const ROOMS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("fs", &["base"]),
    ("receiver", &["base", "fs"]),
    ("plan", &["base", "fs"]),
    ("converter", &["base", "fs", "plan"]),
    ("queue", &["base", "fs"]),
    ("exporter", &["base"]),
    ("writeback", &["base", "fs"]),
    ("config", &["base", "fs", "receiver", "plan", "converter", "exporter", "writeback"]),
    (
        "pipeline",
        &[
            "base",
            "fs",
            "config",
            "receiver",
            "plan",
            "converter",
            "queue",
            "exporter",
            "writeback",
        ],
    ),
    (
        "observe",
        &["base", "config", "receiver", "plan", "converter", "queue", "exporter", "pipeline"],
    ),
    (
        "cli",
        &[
            "base",
            "fs",
            "config",
            "receiver",
            "plan",
            "converter",
            "queue",
            "exporter",
            "pipeline",
            "observe",
        ],
    ),
];

#[test]
fn a_room_may_name_only_rooms_before_it() {
    for (index, (room, may_name)) in ROOMS.iter().enumerate() {
        let earlier: Vec<&str> = ROOMS[..index].iter().map(|(room, _)| *room).collect();
        let later = may_name.iter().find(|named| !earlier.contains(named));
        assert_eq!(later, None, "{room} may name a room that is not before it");
    }
}

#[test]
fn the_rooms_name_what_they_may_and_nothing_else() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let is_test = |file: &Path| {
        file.components().any(|it| ["tests", "tests.rs"].iter().any(|name| it.as_os_str() == *name))
    };
    let files: Vec<_> = rust_files(&sources).into_iter().filter(|file| !is_test(file)).collect();
    assert!(files.len() > 100, "only {} files were found", files.len());
    let mut found = BTreeSet::new();
    for file in &files {
        let room = room_of(file.strip_prefix(&sources).expect("below src"));
        if ["lib", "main"].contains(&room.as_str()) {
            continue;
        }
        let Some((_, may_name)) = ROOMS.iter().find(|(known, _)| *known == room) else {
            panic!("{}: add the room `{room}` to ROOMS and to ARCHITECTURE.md", file.display());
        };
        for named in named_rooms(&std::fs::read_to_string(file).expect("a source file")) {
            let is_allowed = named == room || may_name.contains(&named.as_str());
            assert!(is_allowed, "{}: `{room}` must not name `{named}`", file.display());
            found.insert((room.clone(), named));
        }
    }
    // A search that finds nothing would allow everything.
    assert!(found.len() > 30, "{found:?}");
    for (room, may_name) in ROOMS {
        for named in *may_name {
            let arrow = ((*room).to_owned(), (*named).to_owned());
            assert!(found.contains(&arrow), "nothing in `{room}` names `{named}`: drop the arrow");
        }
    }
}

/// `crate::plan::Artifact` names the room `plan`. What only tests name does not count.
fn named_rooms(source: &str) -> Vec<String> {
    let code = source.split("#[cfg(test)]\nmod ").next().unwrap_or(source);
    let after = code.split("crate::").skip(1);
    let names = after.map(|rest| {
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        assert!(
            !rest.starts_with('{'),
            "write one `use crate::` per room, to be read by this test"
        );
        rest[..end].to_owned()
    });
    names.collect()
}

/// `queue/store/files.rs` and `queue.rs` belong to `queue`.
fn room_of(file: &Path) -> String {
    let first = file.components().next().expect("a file").as_os_str();
    Path::new(first).with_extension("").display().to_string()
}
