//! Operations on a node's attributes: getattr, setattr, readlink, extended attributes, statfs.

use crate::acl::{self, Acl};
use crate::attr::{AclKind, Attr, SetAttr, SetId, SetTime, StatFs, XattrMode};
use crate::change::Change;
use crate::error::{Result, ViewError};
use crate::inode::{Applied, Body, Inode};
use crate::request::Request;
use crate::view::View;
use selvedge_store::{FileKind, Ino, Timestamp, Xattrs};

/// The longest list of extended attribute names, in bytes (`XATTR_LIST_MAX`).
const XATTR_LIST_MAX: usize = 64 * 1024;

impl View {
    /// What stat(2) shows of the node.
    pub fn getattr(&self, ino: Ino) -> Result<Attr> {
        let state = self.state();
        state.attr(&state.node(ino)?)
    }

    /// The node's permission bits (`07777`), its owner and its group, for which nobody has to look at its bytes.
    pub fn mode_and_owner(&self, ino: Ino) -> Result<(u32, u32, u32)> {
        let inode = self.state().node(ino)?.inode;
        Ok((inode.mode, inode.uid, inode.gid))
    }

    /// Changes attributes, and the length first. Repeating it changes nothing more.
    pub fn setattr(&self, ino: Ino, set: &SetAttr) -> Result<Attr> {
        let state = self.state();
        let node = state.node(ino)?;
        if *set == SetAttr::default() {
            return state.attr(&node);
        }
        state.check_writable()?;
        if let Some(size) = set.size {
            match node.inode.kind {
                FileKind::Regular => self.truncate(&node, size)?,
                FileKind::Directory => return Err(ViewError::IsDirectory),
                _ => return Err(ViewError::Invalid("only regular files have a length to set")),
            }
        }
        if (SetAttr { size: None, ..*set }) != SetAttr::default() {
            state.change(|change| set_row(change, ino, set))?;
        }
        state.attr(&state.node(ino)?)
    }

    /// Where a symbolic link points.
    pub fn readlink(&self, ino: Ino) -> Result<Vec<u8>> {
        match &self.state().node(ino)?.inode.body {
            Body::Target(target) => Ok(target.clone()),
            _ => Err(ViewError::Invalid("not a symbolic link")),
        }
    }

    /// Sets an extended attribute.
    pub fn setxattr(
        &self,
        request: &Request,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<()> {
        check_xattr_name(name)?;
        if value.len() > Xattrs::MAX_VALUE {
            return Err(ViewError::XattrTooBig);
        }
        self.change_row(request, ino, |row| {
            match (mode, row.xattrs.get(name).is_some()) {
                (XattrMode::Create, true) => return Err(ViewError::Exists),
                (XattrMode::Replace, false) => return Err(ViewError::NoXattr),
                _ => {}
            }
            put_xattr(&mut row.xattrs, name, value)
        })
    }

    /// Sets an access control list, given in the kernel's encoding, and the mode bits it stands for. Unless the
    /// caller `may_set_group`, being of the file's group or privileged, the file loses its set-group bit as it
    /// would by chmod(2).
    ///
    /// # Errors
    /// [`ViewError::Invalid`] for a list that is malformed, [`ViewError::NotPermitted`] for a default list of
    /// anything but a directory.
    pub fn set_acl(
        &self,
        request: &Request,
        ino: Ino,
        kind: AclKind,
        value: &[u8],
        may_set_group: bool,
    ) -> Result<()> {
        let list = Acl::decode(value)?;
        self.change_row(request, ino, |row| match kind {
            AclKind::Access => {
                row.mode = acl::replace_permissions(row.mode, list.mode());
                if !may_set_group {
                    row.mode &= !libc::S_ISGID;
                }
                if list.is_minimal() {
                    row.xattrs.remove(acl::ACCESS);
                    return Ok(());
                }
                put_xattr(&mut row.xattrs, acl::ACCESS, value)
            }
            AclKind::Default if !row.is_dir() => {
                Err(ViewError::NotPermitted("only a directory hands an access control list down"))
            }
            AclKind::Default => put_xattr(&mut row.xattrs, acl::DEFAULT, value),
        })
    }

    /// Removes an extended attribute. An access control list that is not there counts as removed.
    pub fn removexattr(&self, request: &Request, ino: Ino, name: &[u8]) -> Result<()> {
        let is_acl = name == acl::ACCESS || name == acl::DEFAULT;
        if !is_acl {
            check_xattr_name(name)?;
        }
        self.change_row(request, ino, |row| match row.xattrs.remove(name) {
            None if !is_acl => Err(ViewError::NoXattr),
            _ => Ok(()),
        })
    }

    /// Changes a node's row, once for a request that is sent again.
    fn change_row(
        &self,
        request: &Request,
        ino: Ino,
        edit: impl FnOnce(&mut Inode) -> Result<()>,
    ) -> Result<()> {
        let state = self.state();
        state.node(ino)?;
        state.change(|change| {
            let node = change.node(ino)?;
            if Change::replayed(&node.inode, request).is_some() {
                return Ok(());
            }
            let mut row = change.row_of(&node)?;
            edit(&mut row)?;
            row.ctime = change.now;
            row.applied = Some(Applied::new(request, ino));
            change.commit.put(row);
            Ok(())
        })
    }

    /// The value of an extended attribute.
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        let node = self.state().node(ino)?;
        node.inode.xattrs.get(name).map(<[u8]>::to_vec).ok_or(ViewError::NoXattr)
    }

    /// The names of all extended attributes, each with a NUL behind it.
    pub fn listxattr(&self, ino: Ino) -> Result<Vec<u8>> {
        let node = self.state().node(ino)?;
        let mut list = Vec::new();
        for (name, _) in node.inode.xattrs.iter() {
            list.extend_from_slice(name);
            list.push(0);
        }
        Ok(list)
    }

    /// Space and nodes of the disk that holds the repository.
    pub fn statfs(&self) -> Result<StatFs> {
        let disk = rustix::fs::statvfs(self.state().repo.path()).map_err(ViewError::host("statvfs"))?;
        let small = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        Ok(StatFs {
            blocks: disk.f_blocks,
            bfree: disk.f_bfree,
            bavail: disk.f_bavail,
            files: disk.f_files,
            ffree: disk.f_ffree,
            bsize: small(disk.f_bsize),
            frsize: small(disk.f_frsize),
            namelen: 255,
        })
    }
}

fn set_row(change: &mut Change<'_>, ino: Ino, set: &SetAttr) -> Result<()> {
    let node = change.node(ino)?;
    let mut row = change.row_of(&node)?;
    let now = change.now;
    let time = |set: SetTime| match set {
        SetTime::At(time) => time,
        SetTime::Now => now,
    };
    if let Some(mode) = set.mode {
        set_mode(&mut row, mode & 0o7777)?;
    }
    if let SetId::Clear { keep_group, owned } = set.set_id {
        let mode = without_set_id(&row, keep_group);
        // A time of change that the kernel keeps comes along with either.
        let alone = (SetAttr { set_id: SetId::Keep, ctime: None, ..*set }) == SetAttr::default();
        if mode == row.mode && alone && set.ctime.is_none() {
            return Ok(());
        }
        if mode != row.mode && alone && !owned && !change.state.open.may_be_written(ino) {
            return Err(ViewError::NotPermitted("only its owner takes the set-id bits of a file away"));
        }
        row.mode = mode;
    }
    row.uid = set.uid.unwrap_or(row.uid);
    row.gid = set.gid.unwrap_or(row.gid);
    row.atime = set.atime.map_or(row.atime, time);
    let told = &change.state.told;
    let known = set.ctime.and_then(|_| told.mtime(ino));
    if let Some(mtime) = set.mtime.map(time).or(known) {
        set_mtime(change, &mut row, mtime)?;
    }
    row.ctime = set.ctime.unwrap_or(now);
    if set.ctime.is_some() && row.kind == FileKind::Regular && change.state.open.in_use(ino) {
        told.tell(ino, row.mtime, row.ctime);
    }
    change.commit.put(row);
    Ok(())
}

fn without_set_id(row: &Inode, keep_group: bool) -> u32 {
    if row.is_dir() {
        return row.mode;
    }
    let group = if row.mode & libc::S_IXGRP != 0 || !keep_group { libc::S_ISGID } else { 0 };
    row.mode & !(libc::S_ISUID | group)
}

/// Sets mode bits, and what the access control list says of the same classes.
fn set_mode(row: &mut Inode, mode: u32) -> Result<()> {
    row.mode = mode;
    if let Some(access) = row.xattrs.get(acl::ACCESS) {
        let access = Acl::decode(access)?.with_mode(mode).encode();
        row.xattrs.insert(acl::ACCESS.to_vec(), access);
    }
    Ok(())
}

/// Sets the modification time where it counts: on the working file, if the upper has one.
pub(crate) fn set_mtime(change: &Change<'_>, row: &mut Inode, mtime: Timestamp) -> Result<()> {
    row.mtime = mtime;
    if let Some(layer) = row.body.layer()
        && layer == change.upper
    {
        change.state.files(layer, row.ino)?.set_mtime(row.ino, mtime)?;
        change.stand_for_host(row)?;
    }
    Ok(())
}

fn put_xattr(xattrs: &mut Xattrs, name: &[u8], value: &[u8]) -> Result<()> {
    xattrs.insert(name.to_vec(), value.to_vec());
    let listed: usize = xattrs.iter().map(|(name, _)| name.len() + 1).sum();
    if listed > XATTR_LIST_MAX { Err(ViewError::XattrTooBig) } else { Ok(()) }
}

/// Refuses names outside the namespaces of which any name may be set. Access control lists are set as such.
fn check_xattr_name(name: &[u8]) -> Result<()> {
    if name.len() > Xattrs::MAX_NAME {
        return Err(ViewError::Invalid("the attribute's name is too long"));
    }
    let known = [&b"user."[..], b"trusted.", b"security."];
    if known.contains(&name) {
        return Err(ViewError::Invalid("the attribute's name ends with its namespace"));
    }
    if known.iter().any(|prefix| name.starts_with(prefix)) {
        return Ok(());
    }
    Err(ViewError::NotSupported("extended attributes of this namespace"))
}
