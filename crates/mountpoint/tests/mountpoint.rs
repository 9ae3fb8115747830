//! Opening a directory for mounting.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use common::{Sandbox, options, soon};
use selvedge_mountpoint::{Mountpoint, MountpointError, mount_fuse};

#[test]
fn an_empty_directory_is_opened_by_its_real_path() {
    let sandbox = Sandbox::new();
    let dir = sandbox.dir("real");
    symlink(sandbox.path(), sandbox.path().join("up")).unwrap();
    let point = Mountpoint::open(&sandbox.path().join("up/real/")).unwrap();
    assert_eq!(point.path(), dir);
    assert_eq!(Mountpoint::open(&dir.join(".")).unwrap().path(), dir);
}

#[test]
fn what_cannot_be_mounted_on_is_refused_by_name() {
    let sandbox = Sandbox::new();
    let root = sandbox.path();
    fs::create_dir_all(root.join("full/child")).unwrap();
    fs::write(root.join("file"), "").unwrap();
    symlink(sandbox.dir("target"), root.join("link")).unwrap();
    let open = |name: &str| Mountpoint::open(&root.join(name)).unwrap_err();
    assert!(matches!(open("none"), MountpointError::Missing { .. }));
    assert!(matches!(open("none/deeper"), MountpointError::Missing { .. }));
    assert!(matches!(open("file"), MountpointError::NotADirectory { .. }));
    assert!(matches!(open("file/deeper"), MountpointError::NotADirectory { .. }));
    assert!(matches!(open("link"), MountpointError::IsSymlink { .. }));
    assert!(matches!(open("full"), MountpointError::NotEmpty { .. }));
}

/// Nobody serves the mount: a single question to it would hang this test.
#[test]
fn a_selvedge_mount_is_refused_without_asking_it() {
    let sandbox = Sandbox::new();
    let dir = sandbox.dir("m");
    let _mount = mount_fuse(&Mountpoint::open(&dir).unwrap(), &options("t\u{1b}"), soon()).unwrap();
    for path in [dir.clone(), dir.join("beneath"), dir.join("beneath/deeper")] {
        let error = Mountpoint::open(&path).unwrap_err();
        assert!(matches!(&error, MountpointError::OnFuse { mount, .. } if *mount == dir), "{error}");
        assert!(!error.to_string().contains('\u{1b}'), "{error}");
    }
}

#[test]
fn relative_paths_start_at_the_working_directory() {
    assert!(matches!(Mountpoint::open(Path::new("Cargo.toml")), Err(MountpointError::NotADirectory { .. })));
    assert!(matches!(Mountpoint::open(Path::new(".")), Err(MountpointError::NotEmpty { .. })));
}
