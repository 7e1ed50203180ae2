//! Guarantees:
//!
//! - A file below a root is read by its path; links that stay below the root are followed, relative or absolute.
//! - A link that leads out of the root is refused, also one that takes the place of a directory at any moment.
//! - A root that is replaced is opened anew.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

const MAX: u64 = 1 << 20;

fn read(roots: &Roots, path: &Path) -> Result<Vec<u8>, SourceError> {
    roots.locate(path).and_then(|at| at.load(MAX)).map(|loaded| loaded.bytes)
}

#[test]
fn links_are_followed_as_long_as_they_stay_below_the_root() {
    let place = tempfile::tempdir().unwrap();
    let (root, outside) = (place.path().join("root"), place.path().join("outside"));
    for directory in [root.join("a"), outside.clone()] {
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("o.json"), directory.to_str().unwrap()).unwrap();
    }
    symlink("a", root.join("relative")).unwrap();
    symlink(root.join("a"), root.join("absolute")).unwrap();
    symlink("../outside", root.join("out-relative")).unwrap();
    symlink(&outside, root.join("out-absolute")).unwrap();
    symlink(&root, place.path().join("linked-root")).unwrap();
    let roots = Roots::new(std::slice::from_ref(&root));
    let inside = root.join("a").to_str().unwrap().as_bytes().to_vec();
    for way in ["a", "relative", "absolute"] {
        let path = root.join(way).join("o.json");
        assert_eq!(read(&roots, &path).unwrap(), inside, "{way}");
        let canonical = root.join("a").canonicalize().unwrap();
        assert_eq!(roots.locate(&path).unwrap().dir.canonical, canonical, "{way}");
    }
    for way in ["out-relative", "out-absolute"] {
        let refused = read(&roots, &root.join(way).join("o.json"));
        assert!(matches!(refused, Err(SourceError::Escapes { .. })), "{way}: {refused:?}");
    }
    let refused = read(&roots, &outside.join("o.json"));
    assert!(matches!(refused, Err(SourceError::Escapes { .. })), "{refused:?}");
    let linked = place.path().join("linked-root");
    let roots = Roots::new(std::slice::from_ref(&linked));
    assert_eq!(read(&roots, &linked.join("a/o.json")).unwrap(), inside, "the root may be a link");
}

#[test]
fn without_openat2_the_same_paths_lead_to_the_same_directories() {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir_all(place.path().join("a/b")).unwrap();
    symlink("a", place.path().join("link")).unwrap();
    let root = rustix::fs::openat(CWD, place.path(), flags(), Mode::empty()).unwrap();
    assert!(walk(&root, Path::new("a/b")).is_ok());
    assert!(walk(&root, Path::new("link/b")).is_err());
    assert!(matches!(walk(&root, Path::new("none")), Err(Errno::NOENT)));
}

#[test]
fn a_root_that_is_replaced_is_opened_again() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("root");
    let roots = Roots::new(std::slice::from_ref(&root));
    let path = root.join("o.json");
    assert!(matches!(read(&roots, &path), Err(SourceError::Missing { .. })));
    for text in ["first", "second"] {
        fs::create_dir(&root).unwrap();
        fs::write(&path, text).unwrap();
        assert_eq!(read(&roots, &path).unwrap(), text.as_bytes());
        fs::rename(&root, place.path().join(text)).unwrap();
        assert!(matches!(read(&roots, &path), Err(SourceError::Missing { .. })));
    }
}

#[test]
fn a_directory_that_is_swapped_for_a_link_never_leads_out() {
    const READS: usize = 10_000;
    let place = tempfile::tempdir().unwrap();
    let (root, outside) = (place.path().join("root"), place.path().join("outside"));
    fs::create_dir_all(root.join("a/b")).unwrap();
    fs::create_dir_all(outside.join("b")).unwrap();
    fs::write(root.join("a/b/o.json"), "inside").unwrap();
    fs::write(outside.join("b/o.json"), "outside").unwrap();
    symlink(&outside, root.join("link")).unwrap();
    let (roots, done) = (Roots::new(std::slice::from_ref(&root)), AtomicBool::new(false));
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let directory = rustix::fs::openat(CWD, &root, flags(), Mode::empty()).unwrap();
            while !done.load(Ordering::Relaxed) {
                let exchange = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(&directory, "a", &directory, "link", exchange).unwrap();
            }
        });
        for _ in 0..READS {
            if let Ok(bytes) = read(&roots, &root.join("a/b/o.json")) {
                assert_eq!(bytes, b"inside");
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}
