//! What the kernel says in a request, in the view's words.

use fuser::RenameFlags;
use selvedge_view::{AclKind, Allocate, RenameMode, SeekTo, SetAttr, SetId, ViewError, XattrMode};

use crate::caller;

/// How rename(2) takes names, of its flags.
pub(crate) fn rename_mode(flags: RenameFlags) -> Result<RenameMode, ViewError> {
    match flags.bits() {
        0 => Ok(RenameMode::Replace),
        libc::RENAME_NOREPLACE => Ok(RenameMode::NoReplace),
        libc::RENAME_EXCHANGE => Ok(RenameMode::Exchange),
        libc::RENAME_WHITEOUT => Ok(RenameMode::Whiteout),
        _ => Err(ViewError::Invalid("rename flags")),
    }
}

/// What the kernel leaves to us of set-id bits (`FUSE_HANDLE_KILLPRIV_V2`): they go with a change of owner, with a
/// change of length by somebody who may not set them, and with an attribute change that changes nothing, which is
/// how the kernel tells of such a write, and of a chown(2) that names neither owner nor group. Where files are opened
/// without asking (`no_open`) nobody knows who writes: then it counts who may.
pub(crate) fn set_id(
    (mode, owner, group): (u32, u32, u32),
    asked: &SetAttr,
    from: &fuser::Request,
    no_open: bool,
) -> SetId {
    if mode & (libc::S_ISUID | libc::S_ISGID) == 0 {
        return SetId::Keep;
    }
    let owner_changes = asked.uid.is_some() || asked.gid.is_some();
    let written = match asked.size {
        Some(_) => !caller::may_set_id(from.pid()),
        // A time of change that the kernel keeps changes nothing by itself.
        None => SetAttr { ctime: None, ..*asked } == SetAttr::default(),
    };
    let may_be_writer = no_open && mode & (libc::S_IWGRP | libc::S_IWOTH) != 0;
    if owner_changes || written {
        SetId::Clear {
            keep_group: caller::may_set_group(from.pid(), from.gid(), group),
            owned: may_be_writer || caller::may_own(from.pid(), from.uid(), owner),
        }
    } else {
        SetId::Keep
    }
}

/// Which access control list an attribute of this name is, if any.
pub(crate) fn acl_kind(name: &[u8]) -> Option<AclKind> {
    match name {
        b"system.posix_acl_access" => Some(AclKind::Access),
        b"system.posix_acl_default" => Some(AclKind::Default),
        _ => None,
    }
}

/// What fallocate(2) does, of its mode.
pub(crate) fn allocate_mode(mode: i32) -> Result<Allocate, ViewError> {
    const KEEP_AND_PUNCH: i32 = libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE;
    const KEEP_AND_ZERO: i32 = libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_ZERO_RANGE;
    match mode {
        0 => Ok(Allocate::Reserve),
        libc::FALLOC_FL_KEEP_SIZE => Ok(Allocate::ReserveKeepingSize),
        KEEP_AND_PUNCH => Ok(Allocate::PunchHole),
        libc::FALLOC_FL_ZERO_RANGE => Ok(Allocate::Zero),
        KEEP_AND_ZERO => Ok(Allocate::ZeroKeepingSize),
        _ => Err(ViewError::NotSupported("this mode of fallocate")),
    }
}

/// What lseek(2) looks for, and from where on.
pub(crate) fn seek_to(offset: i64, whence: i32) -> Result<(u64, SeekTo), ViewError> {
    let to = match whence {
        libc::SEEK_DATA => SeekTo::Data,
        libc::SEEK_HOLE => SeekTo::Hole,
        _ => return Err(ViewError::Invalid("whence")),
    };
    u64::try_from(offset).map(|offset| (offset, to)).map_err(|_| ViewError::NoData)
}

/// How setxattr(2) takes a name, of its flags.
pub(crate) fn xattr_mode(flags: i32) -> Result<XattrMode, ViewError> {
    match flags {
        0 => Ok(XattrMode::Set),
        libc::XATTR_CREATE => Ok(XattrMode::Create),
        libc::XATTR_REPLACE => Ok(XattrMode::Replace),
        _ => Err(ViewError::Invalid("setxattr flags")),
    }
}
