use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use super::super::is_temp_name;
use super::*;
use crate::fs::root::load;

const NAME: &str = "onboarding-metadata.json";
const OLD: &str = "{\n  \"project_id\": \"p\"\n}";
const NEW: &str = "{\n  \"project_id\": \"p\",\n  \"generation\": 2\n}";
const NEWER: &str = "{\n  \"project_id\": \"p\",\n  \"generation\": 3, \"more\": true\n}";
const DONE: &str = "{\n  \"project_id\": \"p\",\n  \"task_trace_id\": \"0af7\",\n  \
                    \"task_emission_timestamp\": \"2026-11-23T06:15:00Z\"\n}";
const MAX: u64 = 1 << 20;

/// A directory with one export that has been read.
struct Case {
    dir: tempfile::TempDir,
    source: FileVersion,
}

impl Case {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        fs::write(&path, OLD).unwrap();
        Case { source: load(&path, MAX).unwrap().source, dir }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self) -> String {
        fs::read_to_string(self.at(NAME)).unwrap()
    }

    /// Writes like the exporter: to another file, renamed over the target.
    fn export(&self, text: &str) {
        fs::write(self.at(".export.tmp"), text).unwrap();
        fs::rename(self.at(".export.tmp"), self.at(NAME)).unwrap();
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn stray(&self) -> Option<PathBuf> {
        self.names().iter().find(|name| is_temp_name(name)).map(|name| self.at(name))
    }

    fn run(&self) -> Result<Outcome, WriteBackError> {
        self.run_with(|_| Ok(()))
    }

    fn run_with(
        &self,
        mut hook: impl FnMut(Step) -> rustix::io::Result<()>,
    ) -> Result<Outcome, WriteBackError> {
        let roots = Roots::of_file(&self.source.path);
        write_back_with(&roots, &self.source, "0af7", "2026-11-23T06:15:00Z", MAX, &mut hook)
    }

    /// Runs with `meddle` called once, just before `step`.
    fn meddling(&self, step: Step, meddle: impl FnOnce()) -> Result<Outcome, WriteBackError> {
        let mut meddle = Some(meddle);
        let result = self.run_with(|now| {
            if now == step
                && let Some(meddle) = meddle.take()
            {
                meddle();
            }
            Ok(())
        });
        assert!(meddle.is_none(), "{step:?} was never reached");
        result
    }

    fn failing(&self, step: Step, errno: Errno) -> Result<Outcome, WriteBackError> {
        self.run_with(|now| if now == step { Err(errno) } else { Ok(()) })
    }

    /// Asserts what must always hold: the file has this text, and no temp file is left.
    fn holds(&self, text: &str) {
        assert_eq!(self.text(), text);
        assert_eq!(self.names(), [NAME]);
    }
}

#[test]
fn the_two_keys_are_added_and_a_second_time_changes_nothing() {
    let case = Case::new();
    assert_eq!(case.run().unwrap(), Outcome::Written);
    case.holds(DONE);
    let inode = fs::metadata(case.at(NAME)).unwrap().ino();
    // As after a crash before the queue recorded the write-back.
    assert_eq!(case.run().unwrap(), Outcome::Written);
    assert_eq!(fs::metadata(case.at(NAME)).unwrap().ino(), inode);
}

#[test]
fn a_newer_export_is_left_alone_whenever_it_comes() {
    let case = Case::new();
    case.export(NEW);
    assert_eq!(case.run().unwrap(), Outcome::Superseded);
    case.holds(NEW);

    let case = Case::new();
    let done = case.meddling(Step::Exchange, || case.export(NEW));
    assert_eq!(done.unwrap(), Outcome::Superseded);
    case.holds(NEW);

    // After the exchange it replaces our version, as it would have replaced the old one.
    for step in [Step::Look, Step::LookAgain] {
        let case = Case::new();
        assert_eq!(case.meddling(step, || case.export(NEW)).unwrap(), Outcome::Written);
        case.holds(NEW);
    }
}

#[test]
fn an_export_that_comes_while_another_is_put_back_wins() {
    let case = Case::new();
    let mut returns = 0;
    let done = case.run_with(|step| {
        match step {
            Step::Exchange => case.export(NEW),
            Step::PutBack => {
                returns += 1;
                if returns == 1 {
                    case.export(NEWER);
                }
            }
            _ => {}
        }
        Ok(())
    });
    assert_eq!(done.unwrap(), Outcome::Superseded);
    assert_eq!(returns, 2);
    case.holds(NEWER);
}

#[test]
fn a_writer_in_place_keeps_the_name() {
    let before = Case::new();
    let done = before.meddling(Step::Exchange, || fs::write(before.at(NAME), NEW).unwrap());
    assert_eq!(done.unwrap(), Outcome::Superseded);
    before.holds(NEW);

    // The writer opened the old file before the exchange, and writes afterwards.
    for step in [Step::Look, Step::LookAgain] {
        let case = Case::new();
        let writer = File::options().write(true).open(case.at(NAME)).unwrap();
        let meddle = || {
            writer.set_len(0).unwrap();
            rustix::io::write(&writer, NEW.as_bytes()).unwrap();
        };
        assert_eq!(case.meddling(step, meddle).unwrap(), Outcome::Superseded);
        case.holds(NEW);
    }

    // The writer opened our file between exchange and return.
    let case = Case::new();
    let done = case.run_with(|step| {
        match step {
            Step::Exchange => case.export(NEW),
            Step::Look => fs::write(case.at(NAME), NEWER).unwrap(),
            _ => {}
        }
        Ok(())
    });
    assert_eq!(done.unwrap(), Outcome::Superseded);
    case.holds(NEWER);
}

#[test]
fn a_touched_file_counts_as_another() {
    let case = Case::new();
    let times = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
    File::options().write(true).open(case.at(NAME)).unwrap().set_times(times).unwrap();
    assert_eq!(case.run().unwrap(), Outcome::Superseded);
    case.holds(OLD);
}

#[test]
fn a_removed_file_is_not_created_again() {
    let case = Case::new();
    fs::remove_file(case.at(NAME)).unwrap();
    assert_eq!(case.run().unwrap(), Outcome::Gone);
    assert!(case.names().is_empty());

    let case = Case::new();
    let done = case.meddling(Step::Exchange, || fs::remove_file(case.at(NAME)).unwrap());
    assert_eq!(done.unwrap(), Outcome::Gone);
    assert!(case.names().is_empty());

    let case = Case::new();
    let done = case.run_with(|step| {
        match step {
            Step::Exchange => case.export(NEW),
            Step::PutBack => fs::remove_file(case.at(NAME)).unwrap(),
            _ => {}
        }
        Ok(())
    });
    assert_eq!(done.unwrap(), Outcome::Gone);
    assert!(case.names().is_empty());

    let Case { dir, source } = Case::new();
    drop(dir);
    assert_eq!(
        write_back(&Roots::of_file(&source.path), &source, "0af7", "now", MAX).unwrap(),
        Outcome::Gone
    );
}

#[test]
fn a_temp_file_that_disappears_is_not_mistaken_for_a_missing_target() {
    let case = Case::new();
    let done = case.meddling(Step::Exchange, || fs::remove_file(case.stray().unwrap()).unwrap());
    assert!(matches!(done, Err(WriteBackError::System { .. })));
    case.holds(OLD);
}

#[test]
fn a_directory_that_is_emptied_is_healthy() {
    for (step, newer) in
        [(Step::Look, false), (Step::LookAgain, false), (Step::Look, true), (Step::PutBack, true)]
    {
        for leaves_the_target in [false, true] {
            let case = Case::new();
            let done = case.run_with(|at| {
                if at == Step::Exchange && newer {
                    case.export(NEW);
                }
                if at == step
                    && let Some(temp) = case.stray()
                {
                    fs::remove_file(temp).unwrap();
                    if !leaves_the_target {
                        fs::remove_file(case.at(NAME)).unwrap();
                    }
                }
                Ok(())
            });
            done.unwrap();
            let left = if leaves_the_target { vec![NAME.to_owned()] } else { Vec::new() };
            assert_eq!(case.names(), left, "{step:?}");
        }
    }
}

#[test]
fn the_mode_is_kept() {
    for mode in [0o600, 0o640, 0o400, 0o664] {
        let case = Case::new();
        fs::set_permissions(case.at(NAME), Permissions::from_mode(mode)).unwrap();
        assert_eq!(case.run().unwrap(), Outcome::Written);
        assert_eq!(fs::metadata(case.at(NAME)).unwrap().mode() & 0o7777, mode);
        case.holds(DONE);
    }
}

#[test]
fn a_link_is_refused_and_what_it_leads_to_is_untouched() {
    let case = Case::new();
    fs::rename(case.at(NAME), case.at("real.json")).unwrap();
    symlink("real.json", case.at(NAME)).unwrap();
    let error = case.run().unwrap_err();
    assert!(error.to_string().contains("symbolic link"), "{error}");
    assert_eq!(case.text(), OLD);
    assert_eq!(case.stray(), None);

    // Swapped in at the last moment, so another file comes out.
    let case = Case::new();
    fs::write(case.at("real.json"), OLD).unwrap();
    let swap = || {
        fs::remove_file(case.at(NAME)).unwrap();
        symlink("real.json", case.at(NAME)).unwrap();
    };
    assert_eq!(case.meddling(Step::Exchange, swap).unwrap(), Outcome::Superseded);
    assert_eq!(fs::read_link(case.at(NAME)).unwrap(), PathBuf::from("real.json"));
    assert_eq!(case.stray(), None);
}

#[test]
fn other_hard_links_keep_the_old_text() {
    let case = Case::new();
    fs::hard_link(case.at(NAME), case.at("copy.json")).unwrap();
    // Making a link changes neither size nor mtime, so it is still the file that was read.
    assert_eq!(case.run().unwrap(), Outcome::Written);
    assert_eq!(case.text(), DONE);
    assert_eq!(fs::read_to_string(case.at("copy.json")).unwrap(), OLD);
}

#[test]
fn errors_name_the_next_step_and_leave_no_files() {
    for (step, errno, advice) in [
        (Step::Create, Errno::ROFS, "mounted read-only"),
        (Step::Create, Errno::ACCESS, "write permission on the directory"),
        (Step::Exchange, Errno::BUSY, "mount its directory instead"),
        (Step::Exchange, Errno::PERM, "in a sticky one"),
        (Step::Exchange, Errno::NOSPC, "make room"),
    ] {
        let case = Case::new();
        let error = case.failing(step, errno).unwrap_err().to_string();
        assert!(error.contains(advice) && error.contains(NAME), "{error}");
        case.holds(OLD);
    }
}

#[test]
fn a_directory_closed_to_writing_is_an_error() {
    let case = Case::new();
    fs::set_permissions(case.dir.path(), Permissions::from_mode(0o555)).unwrap();
    let root = File::create(case.at("probe")).is_ok();
    if !root {
        assert!(matches!(case.run(), Err(WriteBackError::System { .. })));
        case.holds(OLD);
    }
    fs::set_permissions(case.dir.path(), Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn without_exchange_the_file_is_renamed_over() {
    for errno in [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP] {
        let case = Case::new();
        assert_eq!(case.failing(Step::Exchange, errno).unwrap(), Outcome::Written);
        case.holds(DONE);
    }
    let fallback = |meddle: &dyn Fn(&Case)| {
        let case = Case::new();
        let outcome = case.run_with(|step| {
            if step == Step::Exchange {
                meddle(&case);
                return Err(Errno::INVAL);
            }
            Ok(())
        });
        (outcome.unwrap(), case)
    };
    let (outcome, case) = fallback(&|case| case.export(NEW));
    assert_eq!(outcome, Outcome::Superseded);
    case.holds(NEW);
    let (outcome, case) = fallback(&|case| fs::remove_file(case.at(NAME)).unwrap());
    assert_eq!(outcome, Outcome::Gone);
    assert!(case.names().is_empty());
}

#[test]
fn a_failed_check_after_the_exchange_restores_the_file() {
    for step in [Step::Look, Step::LookAgain] {
        let case = Case::new();
        assert!(matches!(case.failing(step, Errno::IO), Err(WriteBackError::Source(_))));
        case.holds(OLD);
    }
}

#[test]
fn a_newer_export_that_cannot_be_put_back_is_kept_and_named() {
    let case = Case::new();
    let error = case.run_with(|step| match step {
        Step::Exchange => {
            case.export(NEW);
            Ok(())
        }
        Step::PutBack => Err(Errno::IO),
        _ => Ok(()),
    });
    let stray = case.stray().expect("the newer export is still there");
    let Err(WriteBackError::Stranded { kept, .. }) = error else { panic!("{error:?}") };
    assert_eq!(kept.file_name(), stray.file_name());
    assert_eq!(fs::read_to_string(stray).unwrap(), NEW);
}

#[test]
fn the_id_of_another_trace_is_replaced_in_place() {
    let case = Case::new();
    fs::write(case.at(NAME), r#"{"task_trace_id": "other", "a": 1}"#).unwrap();
    let source = load(&case.at(NAME), MAX).unwrap().source;
    assert_eq!(
        write_back(&Roots::of_file(&source.path), &source, "0af7", "now", MAX).unwrap(),
        Outcome::Written
    );
    case.holds(r#"{"task_trace_id": "0af7", "a": 1, "task_emission_timestamp": "now"}"#);
    assert_eq!(case.stray(), None);
}

/// Two write-backs that restore each other's versions could end with the older one in place.
#[test]
fn one_write_back_of_a_path_at_a_time() {
    let path = Path::new("/x/onboarding-metadata.json");
    let guard = alone(path);
    let (begun, has_begun) = std::sync::mpsc::channel();
    let second = std::thread::spawn(move || {
        begun.send(()).unwrap();
        drop(alone(path));
    });
    has_begun.recv().unwrap();
    assert!(!second.is_finished());
    drop(guard);
    second.join().unwrap();
}

/// Another process changes the metadata of the file after it was copied to the new one.
#[test]
fn metadata_that_changes_meanwhile_is_kept() {
    let user = |case: &Case| {
        let mut value = [0; 16];
        let length = rustix::fs::getxattr(case.at(NAME), "user.origin", &mut value[..]);
        length.map(|length| value[..length].to_vec())
    };
    let set = |path: PathBuf| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(path, "user.origin", b"ci", flags).unwrap();
    };
    for step in [Step::Exchange, Step::Look, Step::LookAgain] {
        let case = Case::new();
        set(case.at(NAME));
        let open = File::open(case.at(NAME)).unwrap();
        // Through the descriptor, as a process that has resolved the name before the exchange.
        let outcome = case.meddling(step, || {
            open.set_permissions(Permissions::from_mode(0o640)).unwrap();
            rustix::fs::fremovexattr(&open, "user.origin").unwrap();
            rustix::fs::fsetxattr(&open, "user.origin", b"cd", rustix::fs::XattrFlags::empty())
                .unwrap();
        });
        assert_eq!(outcome.unwrap(), Outcome::Written, "{step:?}");
        case.holds(DONE);
        assert_eq!(fs::metadata(case.at(NAME)).unwrap().mode() & 0o7777, 0o640, "{step:?}");
        assert_eq!(user(&case).as_deref(), Ok(&b"cd"[..]), "{step:?}");
    }

    // A change to the new file is newer than one to the old file.
    let case = Case::new();
    let old = File::open(case.at(NAME)).unwrap();
    let outcome = case.meddling(Step::Look, || {
        old.set_permissions(Permissions::from_mode(0o640)).unwrap();
        fs::set_permissions(case.at(NAME), Permissions::from_mode(0o604)).unwrap();
    });
    assert_eq!(outcome.unwrap(), Outcome::Written);
    assert_eq!(fs::metadata(case.at(NAME)).unwrap().mode() & 0o7777, 0o604);

    // An attribute that is removed from the old file is removed from the new one.
    let case = Case::new();
    set(case.at(NAME));
    let old = File::open(case.at(NAME)).unwrap();
    let remove = || rustix::fs::fremovexattr(&old, "user.origin").unwrap();
    assert_eq!(case.meddling(Step::Exchange, remove).unwrap(), Outcome::Written);
    assert_eq!(user(&case), Err(Errno::NODATA));

    // Where names cannot be exchanged.
    let case = Case::new();
    let mut changed = false;
    let outcome = case.run_with(|step| {
        if step == Step::Rename && !changed {
            changed = true;
            fs::set_permissions(case.at(NAME), Permissions::from_mode(0o600)).unwrap();
        }
        if step == Step::Exchange { Err(Errno::INVAL) } else { Ok(()) }
    });
    assert_eq!(outcome.unwrap(), Outcome::Written);
    assert_eq!(fs::metadata(case.at(NAME)).unwrap().mode() & 0o7777, 0o600);
}
