use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use super::*;
use crate::fs::root::{Roots, load};

const MAX: u64 = 1024;

fn dir_with(name: &str, text: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(name), text).unwrap();
    dir
}

fn refusal(path: &Path) -> String {
    load(path, MAX).unwrap_err().to_string()
}

#[test]
fn a_file_is_read_with_its_identity() {
    let dir = dir_with("a.json", "{}");
    let path = dir.path().join("a.json");
    let Loaded { source, bytes } = load(&path, MAX).unwrap();
    assert_eq!(bytes, b"{}");
    assert_eq!(source.size, 2);
    assert_eq!(source.path, path);
    assert_eq!(source.canonical(), path.canonicalize().unwrap());
    assert_eq!(source.sha256[..2], [0x44, 0x13]);

    let text = serde_json::to_string(&source).unwrap();
    assert_eq!(serde_json::from_str::<FileVersion>(&text).unwrap(), source);
}

#[test]
fn the_directory_may_be_reached_by_a_link() {
    let dir = dir_with("a.json", "{}");
    let other = tempfile::tempdir().unwrap();
    let link = other.path().join("out");
    symlink(dir.path(), &link).unwrap();
    let source = load(&link.join("a.json"), MAX).unwrap().source;
    assert_eq!(source.path, link.join("a.json"));
    assert_eq!(source.canonical(), dir.path().canonicalize().unwrap().join("a.json"));
    let text = serde_json::to_string(&source).unwrap();
    assert_eq!(serde_json::from_str::<FileVersion>(&text).unwrap(), source);
}

#[test]
fn a_file_is_untouched_until_anything_about_it_changes() {
    let dir = dir_with("a.json", "{}");
    let path = dir.path().join("a.json");
    let source = || load(&path, MAX).unwrap().source;
    let before = source();
    let is_untouched = |source: &FileVersion| {
        Roots::of_file(&path).locate(&path).is_ok_and(|at| at.is_untouched(source))
    };
    assert!(is_untouched(&before));
    assert!(!is_untouched(&FileVersion { ctime_ns: None, ..before.clone() }), "it is not known");

    // The same size and the same time, but not the time of the change.
    let time = std::fs::metadata(&path).unwrap().modified().unwrap();
    while source().ctime_ns == before.ctime_ns {
        std::fs::write(&path, "[]").unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    }
    assert_eq!(source().stamp(), before.stamp());
    assert!(!is_untouched(&before));

    let mut stat = rustix::fs::stat(&path).unwrap();
    assert!(ctime_ns(&stat).is_some());
    stat.st_ctime_nsec = 0;
    assert_eq!(ctime_ns(&stat), None, "it may be one of seconds");

    let before = source();
    std::fs::rename(&path, dir.path().join("b.json")).unwrap();
    assert!(!is_untouched(&before));
}

#[test]
fn a_file_that_a_moved_directory_took_along_is_not_where_it_was() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let at = |name: &str| dir.path().join(name);
    let link = other.path().join("out");
    let lead_to = |name: &str| {
        let _ = std::fs::remove_file(&link);
        symlink(at(name), &link).unwrap();
    };
    std::fs::create_dir(at("v1")).unwrap();
    std::fs::create_dir(at("same")).unwrap();
    std::fs::write(at("v1/a.json"), "{}").unwrap();
    std::fs::hard_link(at("v1/a.json"), at("same/a.json")).unwrap();
    lead_to("v1");
    let path = link.join("a.json");
    let source = load(&path, MAX).unwrap().source;
    let is_untouched = |source: &FileVersion| {
        Roots::of_file(&path).locate(&path).is_ok_and(|at| at.is_untouched(source))
    };
    assert!(is_untouched(&source));

    for elsewhere in ["same", "v2"] {
        if elsewhere == "v2" {
            std::fs::rename(at("v1"), at("v2")).unwrap();
        }
        lead_to(elsewhere);
        assert!(link.join("a.json").exists());
        assert!(!is_untouched(&source), "{elsewhere}");
    }
}

#[test]
fn a_bare_file_name_is_in_the_current_directory() {
    let source = load(Path::new("Cargo.toml"), 1 << 20).unwrap().source;
    assert_eq!(source.canonical(), Path::new("Cargo.toml").canonicalize().unwrap());
    assert!(Directory::open(Path::new("")).unwrap().load_sibling("Cargo.toml", 1 << 20).is_ok());
}

#[test]
fn only_regular_files_are_opened_and_without_waiting() {
    let dir = dir_with("a.json", "{}");
    let at = |name: &str| dir.path().join(name);
    symlink("a.json", at("link")).unwrap();
    let _socket = UnixListener::bind(at("socket")).unwrap();
    rustix::fs::mkfifoat(CWD, at("fifo"), Mode::RWXU).unwrap();
    std::fs::create_dir(at("sub")).unwrap();

    assert!(refusal(&at("link")).contains("a symbolic link, which is not followed"));
    assert!(refusal(&at("socket")).contains("a socket"));
    assert!(refusal(&at("fifo")).contains("a FIFO"));
    assert!(refusal(&at("sub")).contains("a directory"));
    assert!(refusal(&at("sub/..")).contains("a directory"));
    assert!(refusal(Path::new("/dev/null")).contains("a device"));
    assert!(matches!(load(&at("none"), MAX), Err(SourceError::Missing { .. })));
    assert!(matches!(load(&at("a.json/b"), MAX), Err(SourceError::Missing { .. })));
}

#[test]
fn size_is_checked_before_a_byte_is_read() {
    let dir = dir_with("sparse", "");
    let path = dir.path().join("sparse");
    File::options().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
    let error = load(&path, MAX).unwrap_err();
    assert!(matches!(error, SourceError::TooLarge { size, limit: MAX, .. } if size == 1 << 40));
    assert!(!error.is_transient());
    assert!(load(&dir_with("exact", &"x".repeat(1024)).path().join("exact"), MAX).is_ok());
}

#[test]
fn a_file_whose_size_differs_from_its_content_counts_as_changing() {
    // The kernel reports such a file as empty and then hands out bytes.
    let error = load(Path::new("/proc/self/status"), 1 << 20).unwrap_err();
    assert!(matches!(error, SourceError::Changed { .. }));
    assert!(error.is_transient());
}

#[test]
fn permission_errors_say_who_owns_the_file() {
    let dir = dir_with("a.json", "{}");
    let path = dir.path().join("a.json");
    let error = SourceError::from_io(&path, Errno::ACCESS.into());
    assert!(error.to_string().contains("mode 06"), "{error}");
    assert!(!error.is_transient());
    assert!(SourceError::from_io(&path, Errno::MFILE.into()).is_transient());
}

#[test]
fn siblings_are_read_below_the_directory_only() {
    let dir = dir_with("m.yaml", "m");
    let outside = dir_with("secret", "s");
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir(at("sub")).unwrap();
    std::fs::write(at("sub/p.yaml"), "p").unwrap();
    symlink("sub/p.yaml", at("inside")).unwrap();
    symlink(at("sub"), at("absolute-inside")).unwrap();
    symlink(outside.path().join("secret"), at("outside")).unwrap();
    symlink(outside.path(), at("outdir")).unwrap();
    symlink("loop", at("loop")).unwrap();

    let open = Directory::open(dir.path()).unwrap();
    let read = |relative: &str| open.load_sibling(relative, MAX);
    for (relative, text) in [
        ("m.yaml", "m"),
        ("./m.yaml", "m"),
        ("sub/p.yaml", "p"),
        ("inside", "p"),
        ("absolute-inside/p.yaml", "p"),
    ] {
        assert_eq!(read(relative).unwrap().bytes, text.as_bytes());
    }
    let absolute = outside.path().join("secret");
    for relative in ["../m.yaml", "sub/../m.yaml", "outside", "outdir/secret"] {
        assert!(matches!(read(relative), Err(SourceError::Escapes { .. })), "{relative}");
    }
    assert!(matches!(read(absolute.to_str().unwrap()), Err(SourceError::Escapes { .. })));
    assert!(matches!(read("none.yaml"), Err(SourceError::Missing { .. })));
    assert!(matches!(read("sub"), Err(SourceError::NotRegular { .. })));
    assert!(matches!(read(""), Err(SourceError::NotRegular { .. })));
    assert!(matches!(read("loop"), Err(SourceError::Unreadable { .. })));
    assert!(read("nul\0").is_err());
    std::fs::write(at("big"), "x".repeat(2000)).unwrap();
    assert!(matches!(read("big"), Err(SourceError::TooLarge { .. })));
}
