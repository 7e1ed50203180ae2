//! Guarantees:
//!
//! - The rooms of `src/` depend on each other without a cycle.
//! - A stage names no other stage, except the converter, which takes a `Plan`.
//! - No stage names the configuration: `config` builds on the stages, not the other way round.
//! - The files of a room depend on each other without a cycle.

use std::collections::{BTreeMap, BTreeSet};
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
    // A search without results would allow everything.
    assert!(found.len() > 30, "{found:?}");
    for (room, may_name) in ROOMS {
        for named in *may_name {
            let arrow = ((*room).to_owned(), (*named).to_owned());
            assert!(found.contains(&arrow), "nothing in `{room}` names `{named}`: drop the arrow");
        }
    }
}

/// Returns the rooms in paths such as `crate::plan::Artifact`, without those that only tests name.
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

/// Returns the room of a file: `queue` for `queue/store/files.rs` and for `queue.rs`.
fn room_of(file: &Path) -> String {
    let first = file.components().next().expect("a file").as_os_str();
    Path::new(first).with_extension("").display().to_string()
}

#[test]
fn the_files_of_a_room_form_no_cycle() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let module = |file: &Path| {
        let path = file.strip_prefix(&sources).expect("below src").with_extension("");
        let parts = path.components().map(|it| it.as_os_str().to_str().expect("UTF-8").to_owned());
        parts.collect::<Vec<String>>()
    };
    let files = rust_files(&sources).into_iter();
    let modules: BTreeMap<Vec<String>, String> = files
        .map(|file| (module(&file), std::fs::read_to_string(&file).expect("a source file")))
        .filter(|(module, _)| !module.contains(&"tests".to_owned()))
        .collect();
    let mut named: BTreeMap<&Vec<String>, BTreeSet<&Vec<String>>> = BTreeMap::new();
    for (module, source) in &modules {
        let of_room = |other: &&Vec<String>| other[0] == module[0] && *other != module;
        let paths = named_paths(source);
        let targets = paths.iter().filter_map(|path| resolved(module, path, &modules));
        named.insert(module, targets.filter(of_room).collect());
    }
    let arrows: usize = named.values().map(BTreeSet::len).sum();
    assert!(arrows > 200, "only {arrows} arrows were found");
    // A module that names no remaining module is not part of a cycle.
    while let Some(leaf) = named.iter().find(|(_, to)| to.is_empty()).map(|(module, _)| *module) {
        named.remove(leaf);
        for to in named.values_mut() {
            to.remove(leaf);
        }
    }
    let cycles: Vec<String> = named.keys().map(|module| module.join("::")).collect();
    assert!(
        cycles.is_empty(),
        "these files name each other in a circle, or one that does: {cycles:?}"
    );
}

/// Returns every `super::…` and `crate::…` in the code, with the braces of a `use` expanded.
fn named_paths(source: &str) -> Vec<Vec<String>> {
    let code = source.split("#[cfg(test)]\nmod ").next().unwrap_or(source);
    let code: String = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .map(|line| format!("{line}\n"))
        .collect();
    let is_start =
        |at: &usize| !code[..*at].ends_with(|c: char| c.is_alphanumeric() || c == ':' || c == '_');
    let starts = ["super::", "crate::"].into_iter().flat_map(|it| code.match_indices(it));
    let starts = starts.map(|(at, _)| at).filter(is_start);
    starts.flat_map(|at| written_out(&code[at..], &mut 0)).collect()
}

/// Expands `a::{b, c::d}` to `a::b` and `a::c::d`. Reads from `at`, and moves it to the end.
fn written_out(code: &str, at: &mut usize) -> Vec<Vec<String>> {
    let mut path = Vec::new();
    loop {
        let rest = &code[*at..];
        if let Some(inner) = rest.strip_prefix('{') {
            *at += 1;
            let mut all = Vec::new();
            let mut inner = inner;
            while !inner.trim_start().starts_with('}') {
                *at += inner.len() - inner.trim_start_matches([' ', '\n', ',']).len();
                if code[*at..].starts_with('}') {
                    break;
                }
                let ends = written_out(code, at);
                all.extend(ends.into_iter().map(|end| [path.clone(), end].concat()));
                let skipped = code[*at..].find([',', '}']).expect("the brace is closed");
                *at += skipped;
                inner = &code[*at..];
            }
            *at += code[*at..].find('}').map_or(0, |end| end + 1);
            return all;
        }
        let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if name.is_empty() {
            return vec![path];
        }
        *at += name.len();
        path.push(name);
        match code[*at..].starts_with("::") {
            true => *at += 2,
            false => return vec![path],
        }
    }
}

/// Returns the file that a path leads to from a module.
fn resolved<'a>(
    module: &[String],
    path: &[String],
    modules: &'a BTreeMap<Vec<String>, String>,
) -> Option<&'a Vec<String>> {
    let ups = path.iter().take_while(|part| *part == "super").count();
    let full: Vec<String> = match path.first().map(String::as_str) {
        Some("crate") => path[1..].to_vec(),
        _ => [&module[..module.len().checked_sub(ups)?], &path[ups..]].concat(),
    };
    let known = (1..=full.len()).rev().find_map(|len| modules.get_key_value(&full[..len]));
    known.map(|(module, _)| module)
}
