//! Extended attributes.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use rustix::fs::{XattrFlags, getxattr, getxattr_query, listxattr, removexattr, setxattr};
use rustix::io::Errno;

use crate::{WORKER, mounted};
use selvedge_test_support::Repo;

fn get(path: &Path, name: &str) -> Result<Vec<u8>, Errno> {
    let mut value = vec![0; 65536];
    let length = getxattr(path, name, &mut value[..])?;
    value.truncate(length);
    Ok(value)
}

fn list(path: &Path) -> BTreeSet<String> {
    let mut names = vec![0; 65536];
    let length = listxattr(path, &mut names[..]).unwrap();
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names.map(|name| String::from_utf8(name.to_vec()).unwrap()).collect()
}

#[test]
fn attributes_are_set_read_listed_and_removed() {
    let repo = Repo::with_tree(|source| {
        fs::write(source.join("file"), b"").unwrap();
        setxattr(source.join("file"), "user.base", b"imported", XattrFlags::empty()).unwrap();
    });
    let mount = repo.mounting(WORKER).start();
    let file = mount.path().join("file");
    assert_eq!(get(&file, "user.base").unwrap(), b"imported");
    setxattr(&file, "user.new", b"\0bytes\xff", XattrFlags::CREATE).unwrap();
    assert_eq!(setxattr(&file, "user.new", b"", XattrFlags::CREATE), Err(Errno::EXIST));
    assert_eq!(setxattr(&file, "user.none", b"", XattrFlags::REPLACE), Err(Errno::NODATA));
    setxattr(&file, "user.new", b"replaced", XattrFlags::REPLACE).unwrap();
    assert_eq!(get(&file, "user.new").unwrap(), b"replaced");
    assert_eq!(list(&file), BTreeSet::from(["user.base".to_owned(), "user.new".to_owned()]));
    removexattr(&file, "user.base").unwrap();
    assert_eq!(removexattr(&file, "user.base"), Err(Errno::NODATA));
    assert_eq!(get(&file, "user.base"), Err(Errno::NODATA));
    mount.stop();
    let mount = repo.mounting(WORKER).start();
    assert_eq!(list(&mount.path().join("file")), BTreeSet::from(["user.new".to_owned()]));
    mount.stop();
}

#[test]
fn lengths_are_asked_first_and_checked() {
    let (_repo, mount) = mounted();
    let file = mount.path().join("file");
    fs::write(&file, b"").unwrap();
    let value = vec![7; 60_000];
    setxattr(&file, "user.large", &value, XattrFlags::empty()).unwrap();
    assert_eq!(getxattr_query(&file, "user.large").unwrap(), value.len());
    assert_eq!(getxattr(&file, "user.large", &mut [0_u8; 10][..]), Err(Errno::RANGE));
    assert_eq!(listxattr(&file, &mut [0_u8; 3][..]), Err(Errno::RANGE));
    assert_eq!(get(&file, "user.large").unwrap(), value);
    mount.stop();
}
