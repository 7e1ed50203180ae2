//! Writes exports like a job: into new directories, over delivered exports, and over exports
//! without an id.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::ledger::Ledger;
use super::random::Random;
use crate::support::exports::{Artifact, ExportBuilder};
use crate::support::fake_otlp::FakeOtlp;
use crate::support::snapshot::Snapshot;

/// Number of directories in use at a time.
const DIRECTORIES: usize = 16;

/// The directories, and everything that was written into them.
pub struct Writer {
    root: PathBuf,
    /// The current export of each directory.
    in_place: Vec<Option<Snapshot>>,
    /// The ids of all traces that may exist, one per version that was written.
    pub versions: HashSet<String>,
    pub counts: Counts,
    pub faults: Vec<String>,
}

/// Number of exports.
#[derive(Debug, Default)]
pub struct Counts {
    pub written: usize,
    /// Exports that have their id, and whose spans were all acknowledged.
    pub finished: usize,
    /// Exports that were overwritten before they had an id. They may have been delivered all the
    /// same.
    pub overwritten: usize,
}

impl Writer {
    /// Creates the directories below `root`.
    pub fn new(root: &Path) -> Self {
        fs::create_dir_all(root.join("exports")).unwrap();
        fs::create_dir_all(root.join("gone")).unwrap();
        Self {
            root: root.to_owned(),
            in_place: vec![None; DIRECTORIES],
            versions: HashSet::new(),
            counts: Counts::default(),
            faults: Vec::new(),
        }
    }

    /// Returns the current exports.
    pub fn in_place(&self) -> impl Iterator<Item = &Snapshot> {
        self.in_place.iter().flatten()
    }

    /// Writes one export into a random directory. If the directory has an export without an id, the
    /// export is overwritten only sometimes.
    pub fn write(&mut self, random: &mut Random, ledger: &Ledger, server: Option<&FakeOtlp>) {
        let place = random.below(DIRECTORIES);
        let dir = self.root.join(format!("exports/job-{place:02}/output"));
        if let Some(before) = self.in_place[place].take() {
            if before.written_trace_id().is_some() {
                self.check_finished(&before, ledger, server);
                if random.one_in(2) {
                    // Replace the directory by a new one. It is moved and not deleted, because the
                    // sidecar may still be working in it.
                    let gone = self.root.join(format!("gone/{}", self.counts.finished));
                    fs::rename(dir.parent().unwrap(), gone).unwrap();
                }
            } else if random.one_in(3) {
                self.counts.overwritten += 1;
            } else {
                self.in_place[place] = Some(before);
                return;
            }
        }
        let snapshot = self.export(random).write_into(&dir).snapshot;
        self.versions.insert(snapshot.trace_id());
        self.in_place[place] = Some(snapshot);
        self.counts.written += 1;
    }

    /// Checks an export that has its id: every span was acknowledged, and the write-back changed
    /// nothing else.
    pub fn check_finished(
        &mut self,
        snapshot: &Snapshot,
        ledger: &Ledger,
        server: Option<&FakeOtlp>,
    ) {
        let trace_id = snapshot.trace_id();
        let just_now = server.map(FakeOtlp::accepted).unwrap_or_default();
        let mut faults = snapshot.check(&ledger.of_trace(&trace_id, &just_now));
        // `export.id` has the time of ingestion. Spans that waited for long have a later time.
        faults.retain(|fault| !fault.contains("export.id is"));
        faults.extend(snapshot.check_written_back());
        let of_this = |fault| format!("{} ({trace_id}): {fault}", snapshot.path.display());
        self.faults.extend(faults.into_iter().map(of_this));
        self.counts.finished += 1;
    }

    /// Returns an export that differs from all earlier ones.
    fn export(&self, random: &mut Random) -> ExportBuilder {
        const KINDS: [&str; 4] = ["dashboard", "runbook", "loki_rule", "slo_definition"];
        let mut export = ExportBuilder::new(&format!("version-{}", self.counts.written));
        for n in 0..=random.below(24) {
            // Below 2 KB, so that many exports need several requests.
            let filler = "f".repeat(random.below(2000));
            let kind = KINDS[random.below(KINDS.len())];
            let mut artifact = Artifact::new(&format!("artifact-{n}"), kind)
                .parameters(json!({"n": n, "filler": filler}));
            if n > 0 {
                artifact = artifact.depends_on(&[&format!("artifact-{}", random.below(n))]);
            }
            export = export.artifact(artifact);
        }
        export
    }
}
