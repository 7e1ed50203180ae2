//! Reads one export from disk, within its directory and with bounded memory, and joins its files.
//!
//! The metadata file alone decides whether there is an export. If another file is missing or
//! broken, the plan records that, and the export is sent with the remaining data.

use std::fmt;
use std::path::{Path, PathBuf};

use super::memory::{self, Claims};
use super::onboarding::{OnboardingError, Sections};
use super::provenance::OtherVersion;
use super::{Manifest, ManifestUse, Onboarding, Plan, ProjectContext, Warning, join, provenance};
use crate::base::ids::TraceId;
use crate::base::parallel;
use crate::base::text::hex;
use crate::fs::directory::{Directory, Located};
use crate::fs::file::{FileVersion, Loaded, SourceError};
use crate::fs::root::Roots;
use crate::fs::stamp::{self, IdOrigin};

/// Options for reading an export.
#[derive(Clone, Debug)]
pub struct ReadOptions {
    /// Size limit for each of the three files, in bytes.
    pub max_file_size: u64,
    /// Maximum number of artifacts. Dependencies may be ten times as many.
    pub max_artifacts: usize,
    /// Limit for the estimated memory of the parsed and converted export, in bytes.
    pub max_memory: u64,
    /// Overrides the project id in the export (R5.5).
    pub project_id: Option<String>,
    /// Whether an export that carries `task_trace_id` is emitted again.
    pub emit_existing: bool,
}

/// Size of the metadata in bytes above which a second thread saves more time than it costs.
const WORTH_A_THREAD: usize = 256 << 10;

impl Fresh {
    /// Returns the id that a write-back left in the file, if the file has not changed since.
    pub fn own_id(&self) -> Option<&str> {
        let own = self.carries.as_ref().filter(|it| it.origin == IdOrigin::WriteBack);
        own.map(|it| it.text.as_str())
    }
}

/// The result of reading a metadata file.
#[derive(Clone, Debug)]
pub enum Export {
    /// An export to emit.
    Fresh(Box<Fresh>),
    /// An export that carries `task_trace_id`, so it was emitted before.
    Emitted(CarriedId),
}

/// The `task_trace_id` in an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CarriedId {
    /// The id, as the file has it.
    pub text: String,
    /// Whether taskspan wrote the id.
    pub origin: IdOrigin,
}

impl CarriedId {
    /// Whether the text is a trace id. An empty text, or a placeholder, leads to no trace.
    pub(crate) fn is_id(&self) -> bool {
        TraceId::from_hex(&self.text).is_some()
    }
}

/// An export that has not been emitted yet.
#[derive(Clone, Debug)]
pub struct Fresh {
    /// The version of the metadata file that was read.
    pub source: FileVersion,
    /// The trace id of this version.
    pub trace_id: TraceId,
    /// The `task_trace_id` that it carries in spite of that.
    pub carries: Option<CarriedId>,
    /// What the export says.
    pub plan: Plan,
    /// The manifest that was used.
    pub manifest: Option<PathBuf>,
    /// Modification time of the manifest, in nanoseconds since the epoch.
    pub manifest_mtime_ns: Option<i128>,
    /// Whether the export has no checksum for the manifest, so any version of it is accepted.
    pub is_manifest_unchecked: bool,
    /// Whether the metadata names a file that could not be used. The file may still be being
    /// written, so the export is worth reading a second time before it is sent without the file.
    pub provisional: bool,
}

/// Why an export cannot be emitted.
#[derive(Debug)]
pub enum PlanError {
    /// The file could not be read.
    Source(SourceError),
    /// The file is no metadata of an export.
    Onboarding {
        /// The metadata file.
        path: PathBuf,
        /// What is wrong with it.
        error: OnboardingError,
    },
    /// The export needs another configuration.
    Unfit {
        /// The metadata file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// The export may take more memory than `max_memory`. It was not parsed, or not completely.
    NoRoom {
        /// The metadata file.
        path: PathBuf,
        /// The estimate so far, in bytes. It may be larger when more is read.
        needs: u64,
    },
}

impl PlanError {
    /// Whether a retry may succeed without a change to the file.
    pub fn is_transient(&self) -> bool {
        matches!(self, PlanError::Source(error) if error.is_transient())
    }

    /// Whether a file that is still being written would look like this.
    pub fn may_settle(&self) -> bool {
        match self {
            PlanError::Source(error) => error.is_transient(),
            PlanError::Unfit { .. } | PlanError::NoRoom { .. } => false,
            PlanError::Onboarding { error, .. } => {
                matches!(error, OnboardingError::Syntax { .. } | OnboardingError::NotUtf8)
            }
        }
    }
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlanError::Source(error) => error.fmt(f),
            PlanError::Unfit { path, reason } => write!(f, "{}: {reason}", path.display()),
            PlanError::NoRoom { path, needs } => {
                write!(f, "{}: needs more than {needs} bytes of memory", path.display())
            }
            PlanError::Onboarding { path, error } => {
                // Editors can jump to `path:line:column:`.
                let position =
                    matches!(error, OnboardingError::Syntax { .. } | OnboardingError::NotUtf8);
                let gap = if position { "" } else { " " };
                write!(f, "{}:{gap}{error}", path.display())
            }
        }
    }
}

impl std::error::Error for PlanError {}

/// Reads and joins the export with the metadata file `path`, below one of `roots`. Blocks on
/// disk I/O.
///
/// # Errors
/// Returns an error if the metadata file cannot be read, is too large, or is not an export, and
/// [`PlanError::NoRoom`] if the export may take more than `max_memory`.
pub fn read(roots: &Roots, path: &Path, options: &ReadOptions) -> Result<Export, PlanError> {
    read_located(&roots.locate(path).map_err(PlanError::Source)?, options)
}

/// Like [`read`], for a directory that is already open.
///
/// # Errors
/// See [`read`].
pub(crate) fn read_located(metadata: &Located, options: &ReadOptions) -> Result<Export, PlanError> {
    let path = metadata.path();
    let claims = Claims::new(options.max_memory);
    let has_room = || match claims.excess() {
        Some(needs) => Err(PlanError::NoRoom { path: path.to_owned(), needs }),
        None => Ok(()),
    };
    // A file over the limit of files is refused by `load`.
    let size = metadata.stat().ok().and_then(|stat| u64::try_from(stat.st_size).ok());
    let size = size.filter(|size| *size <= options.max_file_size);
    claims.claim(size.map(memory::of_file).unwrap_or_default());
    has_room()?;
    let loaded = metadata.load(options.max_file_size).map_err(PlanError::Source)?;
    let refused = |error| PlanError::Onboarding { path: path.to_owned(), error };
    let sections = Sections::of(&loaded.bytes).map_err(refused)?;
    let sections = sections.limited_to(options.max_artifacts);
    let carries = sections.task_trace_id().map(|text| {
        let origin = stamp::origin(&loaded.source, &loaded.bytes, &text);
        CarriedId { text, origin }
    });
    sections.check_sizes().map_err(refused)?;
    let is_parsable = claims.claim(sections.memory());
    if let Some(carried) = carries.clone().filter(|it| !options.emit_existing && it.is_id()) {
        // Nothing is sent for this export, so it is parsed only to report errors.
        if is_parsable {
            sections.read().map_err(refused)?;
        }
        return Ok(Export::Emitted(carried));
    }
    has_room()?;
    let source = loaded.source;
    let shown = path.parent().unwrap_or(Path::new("."));
    let directory = Siblings { directory: &metadata.dir, shown, claims: &claims };
    let is_large = loaded.bytes.len() > WORTH_A_THREAD;
    let (manifest_file, trace_id) = parallel::both(
        is_large,
        || load_manifest(&directory, &sections, options),
        || TraceId::of_export(source.canonical(), source.mtime_ns, &loaded.bytes),
    );
    // Everything large is claimed. Parse nothing that would be parsed again.
    has_room()?;
    let (manifest, onboarding) = parallel::both(
        is_large,
        || manifest_file.as_ref().map_err(Clone::clone).and_then(|file| file.parse(&directory)),
        || sections.read(),
    );
    let mut onboarding = onboarding.map_err(refused)?;
    let manifest_mtime_ns = manifest.as_ref().ok().map(|(_, mtime_ns)| *mtime_ns);
    let manifest = manifest.map(|(manifest, _)| manifest);
    if manifest.as_ref().is_ok_and(|it| it.artifacts.len() > options.max_artifacts) {
        return Err(refused(OnboardingError::too_many("artifacts", options.max_artifacts)));
    }
    drop((loaded.bytes, manifest_file));
    if onboarding.source_checksum.is_none() {
        let generated_from = manifest.as_ref().ok().and_then(|it| it.generated_from.as_deref());
        match read_source_checksum(&directory, &source, generated_from, options) {
            Ok(checksum) => onboarding.source_checksum = checksum,
            // Our own write-back made this version.
            Err(OtherVersion)
                if carries.as_ref().is_some_and(|it| it.origin != IdOrigin::Foreign) => {}
            Err(OtherVersion) => onboarding.warnings.push(Warning::ProvenanceNotUsed),
        }
    }

    let mut warnings = Vec::new();
    let manifest = manifest.map_err(|(manifest_use, reason)| {
        warnings.push(Warning::ManifestNotUsed { reason });
        manifest_use
    });
    let context = read_context(&directory, &onboarding, options, &mut warnings);
    has_room()?;
    let provisional = (manifest.is_err() && onboarding.artifact_manifest_path.is_some())
        || (context.is_none() && onboarding.project_context_path.is_some());
    let context = context.unwrap_or_default();
    let is_manifest_unchecked = onboarding.artifact_manifest_checksum.is_none();
    let used = onboarding.artifact_manifest_path.as_ref().filter(|_| manifest.is_ok());
    let used = used.map(|name| directory.shown.join(name));
    let mut plan = join::join(onboarding, manifest, context, options.project_id.as_deref());
    plan.warnings.append(&mut warnings);
    Ok(Export::Fresh(Box::new(Fresh {
        source,
        trace_id,
        carries,
        plan,
        manifest: used,
        manifest_mtime_ns,
        is_manifest_unchecked,
        provisional,
    })))
}

/// The files next to the metadata file.
struct Siblings<'a> {
    directory: &'a Directory,
    /// Path of the directory, for messages.
    shown: &'a Path,
    claims: &'a Claims,
}

impl Siblings<'_> {
    /// Reads a file and claims memory for it. If there is no room, the file is not read and the
    /// caller's result is not used.
    fn load(&self, name: &str, max_bytes: u64) -> Result<Loaded, SourceError> {
        let loaded = self.directory.load_sibling(name, max_bytes.min(self.claims.left()));
        match &loaded {
            Err(SourceError::TooLarge { size, .. }) if *size <= max_bytes => {
                self.claims.claim(memory::of_file(*size));
            }
            Ok(loaded) => drop(self.claims.claim(memory::of_file(loaded.source.size))),
            Err(_) => {}
        }
        loaded.map_err(|error| error.over(max_bytes))
    }

    /// Claims the memory for parsing a file. If there is no room, the caller's result is not used.
    fn claim(&self, name: &str, bytes: &[u8]) -> Result<(), String> {
        let needs = match name.ends_with(".json") {
            true => memory::of_json(bytes).whole,
            false => memory::of_yaml(bytes),
        };
        let is_parsable = self.claims.claim(needs);
        is_parsable.then_some(()).ok_or_else(|| "over the memory limit".to_owned())
    }
}

/// An artifact manifest that was read and not parsed.
struct ManifestFile {
    name: String,
    loaded: Loaded,
}

impl ManifestFile {
    /// Returns the manifest and its modification time, or why it cannot be used.
    fn parse(&self, directory: &Siblings<'_>) -> Result<(Manifest, i128), (ManifestUse, String)> {
        let manifest = Manifest::parse(&self.name, &self.loaded.bytes);
        let of_file = |error| format!("{}: {error}", directory.shown.join(&self.name).display());
        manifest
            .map(|manifest| (manifest, self.loaded.source.mtime_ns))
            .map_err(|error| (ManifestUse::Unreadable, of_file(error)))
    }
}

/// Reads the manifest that the metadata names, and claims the memory to parse it. Returns why it
/// cannot be used, if it cannot.
fn load_manifest(
    directory: &Siblings<'_>,
    sections: &Sections<'_>,
    options: &ReadOptions,
) -> Result<ManifestFile, (ManifestUse, String)> {
    let Some(name) = sections.artifact_manifest_path() else {
        return Err((ManifestUse::Missing, "the metadata names none".to_owned()));
    };
    let path = directory.shown.join(&name);
    let loaded = match directory.load(&name, options.max_file_size) {
        Ok(loaded) => loaded,
        Err(error @ SourceError::Missing { .. }) => {
            return Err((ManifestUse::Missing, error.to_string()));
        }
        Err(error) => return Err((ManifestUse::Unreadable, error.to_string())),
    };
    if let Some(expected) = sections.artifact_manifest_checksum() {
        let actual = hex(&loaded.source.sha256);
        if !actual.eq_ignore_ascii_case(&expected) {
            let reason = format!(
                "{}: checksum mismatch: its SHA-256 is {actual}, the metadata says {expected}",
                path.display()
            );
            return Err((ManifestUse::ChecksumMismatch, reason));
        }
    }
    match directory.claim(&name, &loaded.bytes) {
        Ok(()) => Ok(ManifestFile { name, loaded }),
        Err(reason) => Err((ManifestUse::Unreadable, reason)),
    }
}

/// Returns the source checksum from the record of the run. The record is optional, so one that
/// cannot be read is ignored without a warning.
fn read_source_checksum(
    directory: &Siblings<'_>,
    metadata: &FileVersion,
    generated_from: Option<&str>,
    options: &ReadOptions,
) -> Result<Option<String>, OtherVersion> {
    let record = directory.load(provenance::FILE, options.max_file_size);
    let name = metadata.path.file_name().and_then(|name| name.to_str());
    let (Ok(record), Some(name)) = (record, name) else { return Ok(None) };
    if directory.claim(provenance::FILE, &record.bytes).is_err() {
        return Ok(None);
    }
    provenance::source_checksum(&record.bytes, (name, &metadata.sha256), generated_from)
}

/// Returns `None` if there is no ProjectContext, or it cannot be used.
fn read_context(
    directory: &Siblings<'_>,
    onboarding: &Onboarding,
    options: &ReadOptions,
    warnings: &mut Vec<Warning>,
) -> Option<ProjectContext> {
    // Older exports do not name one, which is no reason for a warning.
    let name = onboarding.project_context_path.as_ref()?;
    directory
        .load(name, options.max_file_size)
        .map_err(|error| error.to_string())
        .and_then(|loaded| {
            let context = directory.claim(name, &loaded.bytes);
            context
                .and_then(|()| ProjectContext::parse(&loaded.bytes))
                .map_err(|error| format!("{}: {error}", directory.shown.join(name).display()))
        })
        .map_err(|reason| warnings.push(Warning::ProjectContextNotUsed { reason }))
        .ok()
}
