//! Finds the export that a gate result belongs to.
//!
//! ```text
//! directory of the report, or the one that was checked ─▶ exports next to it ─▶ by trace id, or by project
//!                                                              │ none: all watched exports
//! ```

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::super::{ReceiverPipeline, selection};
use crate::base::ids::TraceId;
use crate::converter::Converter;
use crate::fs::blocking::FsByReceiver;
use crate::fs::carried::WriteBackMode;
use crate::fs::root::Roots;
use crate::plan::{Emitted, NotEmitted, Project, ReadOptions, read_emitted};
use crate::receiver::scan::Scanner;
use crate::receiver::select::Selection;

/// How exports are found, read and converted.
pub(crate) struct Traces {
    sources: Vec<Exports>,
}

struct Exports {
    roots: Roots,
    selection: Selection,
    read: ReadOptions,
    write_back: WriteBackMode,
    converter: Converter,
}

impl Exports {
    fn read(&self, path: &Path, max_memory: u64) -> Result<Emitted, NotEmitted> {
        let options = ReadOptions { max_memory, ..self.read.clone() };
        read_emitted(&self.roots, path, &options, self.write_back)
    }
}

/// An export, and the converter that made its trace.
pub(crate) type FoundTrace<'a> = (Emitted, &'a Converter);

/// Why no export was found.
pub(crate) enum NotFound {
    /// The export may come later.
    Later(String),
    Never(String),
    /// An export may take this many bytes of memory, which is more than it may.
    NoRoom(u64),
}

impl Traces {
    pub(crate) fn of(pipelines: &[ReceiverPipeline], fs: &FsByReceiver) -> Arc<Traces> {
        let exports = |ReceiverPipeline { id, config, converter, .. }: &ReceiverPipeline| Exports {
            roots: fs.get(id).roots,
            selection: selection(&config.watching()),
            read: config.read_options(),
            write_back: config.write_back.mode,
            converter: converter.clone(),
        };
        Arc::new(Traces { sources: pipelines.iter().map(exports).collect() })
    }

    /// Finds the export for one result of a file, in the first of `directories` that has any.
    /// `max_memory` is the memory that an export may take, in bytes. Blocks on disk I/O.
    pub(crate) fn find(
        &self,
        (directories, max_memory): (&[PathBuf], u64),
        project_id: Option<&str>,
        trace_id: Option<TraceId>,
    ) -> Result<FoundTrace<'_>, NotFound> {
        let mut beside = directories.iter().map(|directory| self.in_directory(directory));
        let beside = beside.find(|exports| !exports.is_empty()).unwrap_or_default();
        let Some(id) = trace_id else { return Self::of_project(&beside, max_memory, project_id) };
        let named = Self::named(&beside, max_memory, id)?;
        let found = match named {
            Some(found) => Some(found),
            None => Self::named(&self.everywhere(), max_memory, id)?,
        };
        let Some(found) = found else {
            return Err(NotFound::Later(format!("no export of trace {id} is there")));
        };
        let own = &found.0.plan.project;
        match project_id.filter(|id| !own.is_named(id)) {
            Some(other) => Err(NotFound::Never(of_another(other, &own.id))),
            None => Ok(found),
        }
    }

    fn named<'a>(
        candidates: &[(PathBuf, &'a Exports)],
        max_memory: u64,
        trace_id: TraceId,
    ) -> Result<Option<FoundTrace<'a>>, NotFound> {
        for (path, exports) in candidates {
            match exports.read(path, max_memory) {
                Ok(emitted) if emitted.trace_id == trace_id => {
                    return Ok(Some((emitted, &exports.converter)));
                }
                Ok(_) => {}
                Err(error) => {
                    if let Some(bytes) = error.needs_memory() {
                        return Err(NotFound::NoRoom(bytes));
                    }
                }
            }
        }
        Ok(None)
    }

    fn of_project<'a>(
        candidates: &[(PathBuf, &'a Exports)],
        max_memory: u64,
        project_id: Option<&str>,
    ) -> Result<FoundTrace<'a>, NotFound> {
        let is_meant = |own: &Project| project_id.is_none_or(|id| own.is_named(id));
        let (mut found, mut others, mut later) = (Vec::new(), Vec::new(), None);
        for (path, exports) in candidates {
            match exports.read(path, max_memory) {
                Ok(emitted) if is_meant(&emitted.plan.project) => {
                    found.push((emitted, &exports.converter));
                }
                Ok(emitted) => others.push(emitted.plan.project.id),
                Err(NotEmitted::NoId { project, .. }) if !is_meant(&project) => {
                    others.push(project.id);
                }
                Err(error @ (NotEmitted::Off(_) | NotEmitted::BadId { .. })) => {
                    return Err(NotFound::Never(error.to_string()));
                }
                Err(error) => match error.needs_memory() {
                    Some(bytes) => return Err(NotFound::NoRoom(bytes)),
                    None => later = Some(error),
                },
            }
        }
        if let Some(error) = later {
            return Err(NotFound::Later(error.to_string()));
        }
        if found.len() > 1 {
            let reason = "several exports are beside it; say which with `trace_id`";
            return Err(NotFound::Never(reason.to_owned()));
        }
        match (found.pop(), others.first()) {
            (Some(found), _) => Ok(found),
            (None, Some(own)) => {
                Err(NotFound::Never(of_another(project_id.unwrap_or_default(), own)))
            }
            (None, None) => Err(NotFound::Later("no export is beside it".to_owned())),
        }
    }

    fn in_directory(&self, directory: &Path) -> Vec<(PathBuf, &Exports)> {
        let of = |exports: &'_ Exports| -> Vec<PathBuf> {
            let names = exports.roots.files_of(directory).unwrap_or_default();
            let paths = names.into_iter().map(|name| directory.join(name));
            paths.filter(|path| exports.selection.is_export(path)).collect()
        };
        let all = self.sources.iter();
        all.flat_map(|exports| of(exports).into_iter().map(move |path| (path, exports))).collect()
    }

    fn everywhere(&self) -> Vec<(PathBuf, &Exports)> {
        let scan = |exports: &Exports| Scanner::new(exports.selection.clone()).scan_all().exports;
        let all = self.sources.iter();
        all.flat_map(|exports| scan(exports).into_keys().map(move |path| (path, exports))).collect()
    }
}

/// Returns the directories in which the export of a report may be: the directory that was checked,
/// and the directory of the report. The checked directory is relative to the checker's working
/// directory, where the report usually is. Only exports that a receiver watches are found in them.
pub(crate) fn directories_of(report: &Path, output_dir: Option<&Path>) -> Vec<PathBuf> {
    let is_plain = |path: &&Path| !path.components().any(|it| it == Component::ParentDir);
    let checked = output_dir.filter(is_plain).map(|checked| report.join(checked));
    checked.into_iter().chain([report.to_owned()]).collect()
}

fn of_another(project: &str, own: &str) -> String {
    format!("the report is of project `{project}`, but the export is of `{own}`")
}
