//! Operations on names: lookup, create, mkdir, mknod, symlink, link, unlink, rmdir, rename.

use crate::attr::{Attr, RenameMode};
use crate::catalog::Unsettled;
use crate::change::{Change, NewNode};
use crate::commit::Effect;
use crate::error::{Result, ViewError};
use crate::inode::{Body, Inode};
use crate::open_flags::OpenFlags;
use crate::request::{Handle, Request};
use crate::state::State;
use crate::tables::Node;
use crate::view::View;
use crate::volatile::Volatility;
use selvedge_store::{FileKind, Ino};

/// The longest name, in bytes (`NAME_MAX`).
const NAME_MAX: usize = 255;
/// The most names of one file, as on ext4 (`EXT4_LINK_MAX`).
const LINK_MAX: u32 = 65_000;
/// The longest symbolic link target, in bytes (`PATH_MAX` less the NUL).
const TARGET_MAX: usize = 4095;

impl View {
    /// The node called `name` in `parent`.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr> {
        self.state().attr(&self.named(parent, name)?)
    }

    /// As [`lookup`](Self::lookup), without asking the host about the node.
    fn named(&self, parent: Ino, name: &[u8]) -> Result<Node> {
        check_name(name)?;
        let state = self.state();
        let (mut tables, directory) = state.tables_and_directory(parent)?;
        directory.live_directory()?;
        state.child_in(&mut tables, &directory.inode, name)?.ok_or(ViewError::NotFound)
    }

    /// Takes note that the kernel has forgotten the node: nobody can ask for it by number any more. Numbers of
    /// lookups are not kept, because a worker that takes over cannot know them; a node without names is
    /// forgotten once, when the last who could name it has gone.
    pub fn forget(&self, ino: Ino) {
        let state = self.state();
        let tables = state.tables();
        if tables.is_orphan(ino) {
            state.reap_when_free(&tables, ino);
        }
    }

    /// Makes and opens a regular file; opens the one there is unless `flags` demand a new one.
    pub fn create(
        &self,
        request: &Request,
        parent: Ino,
        name: &[u8],
        mode: u32,
        flags: OpenFlags,
    ) -> Result<(Attr, Handle)> {
        let (node, _) = self.made(request, parent, name, mode, flags)?;
        let handle = self.open_node(request, &node, flags)?;
        Ok((self.state().attr(&node)?, handle))
    }

    /// The regular file of this name, made if there is none; tells whether nobody can know of it yet.
    pub(crate) fn made(
        &self,
        request: &Request,
        parent: Ino,
        name: &[u8],
        mode: u32,
        flags: OpenFlags,
    ) -> Result<(Node, bool)> {
        // Between the death of a worker and the request's second coming somebody may have looked the file up.
        let mut is_new = !request.resent;
        let node = self.make(
            request,
            parent,
            name,
            |existing| {
                is_new = false;
                match existing.inode.kind {
                    _ if flags.exclusive => Err(ViewError::Exists),
                    FileKind::Regular => Ok(()),
                    FileKind::Directory => Err(ViewError::IsDirectory),
                    _ => Err(ViewError::Exists),
                }
            },
            |change| {
                let body = Body::File { layer: change.upper };
                NewNode { kind: FileKind::Regular, mode, rdev: 0, body }
            },
        )?;
        Ok((node, is_new))
    }

    /// Makes a directory.
    pub fn mkdir(&self, request: &Request, parent: Ino, name: &[u8], mode: u32) -> Result<Attr> {
        self.make_new(request, parent, name, |_| NewNode {
            kind: FileKind::Directory,
            mode,
            rdev: 0,
            body: Body::None,
        })
    }

    /// Makes a file of any kind but directory and symbolic link.
    pub fn mknod(
        &self,
        request: &Request,
        parent: Ino,
        name: &[u8],
        kind: FileKind,
        mode: u32,
        rdev: u64,
    ) -> Result<Attr> {
        if matches!(kind, FileKind::Directory | FileKind::Symlink) {
            return Err(ViewError::Invalid("mknod makes no directories and no links"));
        }
        self.make_new(request, parent, name, |change| {
            let body = match kind {
                FileKind::Regular => Body::File { layer: change.upper },
                _ => Body::None,
            };
            let is_device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
            NewNode { kind, mode, rdev: if is_device { rdev } else { 0 }, body }
        })
    }

    /// Makes a symbolic link.
    pub fn symlink(&self, request: &Request, parent: Ino, name: &[u8], target: &[u8]) -> Result<Attr> {
        if target.is_empty() {
            return Err(ViewError::NotFound);
        }
        if target.len() > TARGET_MAX {
            return Err(ViewError::NameTooLong);
        }
        self.make_new(request, parent, name, |_| NewNode {
            kind: FileKind::Symlink,
            mode: 0o777,
            rdev: 0,
            body: Body::Target(target.to_vec()),
        })
    }

    fn make_new(
        &self,
        request: &Request,
        parent: Ino,
        name: &[u8],
        new: impl FnOnce(&Change<'_>) -> NewNode,
    ) -> Result<Attr> {
        let node = self.make(request, parent, name, |_| Err(ViewError::Exists), new)?;
        self.state().attr(&node)
    }

    /// Makes a node with a name; `existing` decides about a name that is taken.
    fn make(
        &self,
        request: &Request,
        parent: Ino,
        name: &[u8],
        existing: impl FnOnce(&Node) -> Result<()>,
        new: impl FnOnce(&Change<'_>) -> NewNode,
    ) -> Result<Node> {
        check_name(name)?;
        let state = self.state();
        state.check_writable()?;
        state.warm(parent)?;
        let ino = state.new_ino()?;
        let made = state.change(|change| {
            let directory = change.directory(parent)?;
            if let Some(done) = Change::replayed(&directory.inode, request) {
                return Ok(done);
            }
            if let Some(node) = change.child(&directory.inode, name)? {
                existing(&node)?;
                return Ok(node.inode.ino);
            }
            let inode = change.new_inode(request, ino, &directory.inode, new(change))?;
            change.put_name(parent, name, &inode);
            let row = change.row_of(&directory)?;
            change.put_directory(row, i64::from(inode.is_dir()), request, ino);
            change.commit.put(inode);
            Ok(ino)
        })?;
        state.node(made)
    }

    /// Gives a file another name.
    pub fn link(&self, request: &Request, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr> {
        check_name(name)?;
        let state = self.state();
        state.node(ino)?;
        state.warm(parent)?;
        state.change(|change| {
            let directory = change.directory(parent)?;
            if Change::replayed(&directory.inode, request).is_some() {
                return Ok(());
            }
            let node = change.node(ino)?;
            check_linkable(&node.inode)?;
            if change.child(&directory.inode, name)?.is_some() {
                return Err(ViewError::Exists);
            }
            let mut row = change.row_of(&node)?;
            row.nlink += 1;
            row.ctime = change.now;
            change.put_name(parent, name, &row);
            let directory_row = change.row_of(&directory)?;
            change.put_directory(directory_row, 0, request, ino);
            change.commit.put(row);
            Ok(())
        })?;
        state.attr(&state.node(ino)?)
    }

    /// Removes a name of anything but a directory.
    pub fn unlink(&self, request: &Request, parent: Ino, name: &[u8]) -> Result<()> {
        self.remove(request, parent, name, |_, node| {
            if node.inode.is_dir() { Err(ViewError::IsDirectory) } else { Ok(()) }
        })
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, request: &Request, parent: Ino, name: &[u8]) -> Result<()> {
        if let Ok(node) = self.named(parent, name)
            && node.inode.is_dir()
        {
            self.state().warm(node.inode.ino)?;
        }
        self.remove(request, parent, name, |change, node| {
            if !node.inode.is_dir() {
                return Err(ViewError::NotDirectory);
            }
            change.check_empty(&node.inode)
        })
    }

    fn remove(
        &self,
        request: &Request,
        parent: Ino,
        name: &[u8],
        check: impl FnOnce(&mut Change<'_>, &Node) -> Result<()>,
    ) -> Result<()> {
        check_name(name)?;
        let state = self.state();
        state.warm(parent)?;
        state.change_freeing(|change| {
            let directory = change.directory(parent)?;
            if Change::replayed(&directory.inode, request).is_some() {
                return Ok(());
            }
            let node = change.child(&directory.inode, name)?.ok_or(ViewError::NotFound)?;
            check(change, &node)?;
            change.remove_name(&directory.inode, name)?;
            change.drop_link(&node)?;
            let row = change.row_of(&directory)?;
            change.put_directory(row, -i64::from(node.inode.is_dir()), request, node.inode.ino);
            Ok(())
        })
    }

    /// Moves a name, over an existing one if `mode` allows.
    pub fn rename(
        &self,
        request: &Request,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<()> {
        check_name(name)?;
        check_name(new_name)?;
        let state = self.state();
        let source = state.standing(parent, name)?;
        let target = state.standing(new_parent, new_name)?;
        let replaces = matches!(mode, RenameMode::Replace | RenameMode::Whiteout);
        if replaces
            && let Some(target) = &target.node
            && target.inode.is_dir()
        {
            state.warm(target.inode.ino)?;
        }
        // A name that may still fall back to an older file must not travel: it is made certain first. Nor may a fallback
        // take away what was durable before: only a file that never was is moved as it is.
        if let Some(unsettled) = source.unsettled {
            state.make_certain(unsettled)?;
        } else if replaces
            && let Some(source) = &source.node
            && state.volatility(source) == Volatility::Changed
        {
            state.make_certain(source.inode.ino)?;
        }
        if mode == RenameMode::Exchange
            && let Some(unsettled) = target.unsettled
        {
            state.make_certain(unsettled)?;
        }
        let whiteout = if mode == RenameMode::Whiteout { Some(state.new_ino()?) } else { None };
        let settle = state.change(|change| {
            let Some(moving) = Move::prepare(change, request, [parent, new_parent], [name, new_name])? else {
                return Ok(false);
            };
            match (mode, &moving.target) {
                (RenameMode::NoReplace, Some(_)) => return Err(ViewError::Exists),
                (RenameMode::Exchange, None) => return Err(ViewError::NotFound),
                (RenameMode::Exchange, Some(target)) => {
                    return moving.exchange(change, target).map(|()| false);
                }
                (RenameMode::Replace | RenameMode::NoReplace | RenameMode::Whiteout, _) => {}
            }
            moving.replace(change, whiteout)
        })?;
        if settle {
            state.work.wake();
        }
        Ok(())
    }
}

/// What stands at a name before it is renamed, as long as nobody else changes it.
struct Standing {
    node: Option<Node>,
    /// The file whose bytes have to be durable before the name can be relied on.
    unsettled: Option<Ino>,
}

impl State {
    /// What stands at a name; nothing where there is no directory with names. The directory's listing is in memory then.
    fn standing(&self, directory: Ino, name: &[u8]) -> Result<Standing> {
        let (mut tables, directory) = self.tables_and_directory(directory)?;
        if directory.live_directory().is_err() {
            return Ok(Standing { node: None, unsettled: None });
        }
        let unsettled = tables.replaced(directory.inode.ino, name).map(|replaced| replaced.source);
        Ok(Standing { node: self.child_in(&mut tables, &directory.inode, name)?, unsettled })
    }
}

/// A rename between two names that were looked up.
struct Move<'a> {
    request: &'a Request,
    from: Node,
    to: Node,
    name: &'a [u8],
    new_name: &'a [u8],
    source: Node,
    target: Option<Node>,
}

impl<'a> Move<'a> {
    /// Looks both names up and checks what holds for every mode; `None` when nothing is left to do.
    fn prepare(
        change: &mut Change<'_>,
        request: &'a Request,
        parents: [Ino; 2],
        names: [&'a [u8]; 2],
    ) -> Result<Option<Self>> {
        let from = change.directory(parents[0])?;
        let to = change.directory(parents[1])?;
        if Change::replayed(&from.inode, request).is_some() {
            return Ok(None);
        }
        let source = change.child(&from.inode, names[0])?.ok_or(ViewError::NotFound)?;
        let target = change.child(&to.inode, names[1])?;
        if target.as_ref().is_some_and(|target| target.inode.ino == source.inode.ino) {
            return Ok(None);
        }
        for (moved, into) in [(Some(&source), &to), (target.as_ref(), &from)] {
            if let Some(moved) = moved
                && moved.inode.is_dir()
            {
                check_no_loop(change, &moved.inode, into)?;
            }
        }
        Ok(Some(Self { request, from, to, name: names[0], new_name: names[1], source, target }))
    }

    /// Tells whether the new content of a replaced name has yet to be made durable.
    fn replace(self, change: &mut Change<'_>, whiteout: Option<Ino>) -> Result<bool> {
        let (mut unsettled, mut links_lost) = (false, 0);
        if let Some(target) = &self.target {
            match (self.source.inode.is_dir(), target.inode.is_dir()) {
                (true, false) => return Err(ViewError::NotDirectory),
                (false, true) => return Err(ViewError::IsDirectory),
                (true, true) => change.check_empty(&target.inode)?,
                (false, false) => {}
            }
            links_lost = i64::from(target.inode.is_dir());
            change.drop_link(target)?;
            unsettled = self.fall_back_to(change, target);
        }
        change.remove_name(&self.from.inode, self.name)?;
        if let Some(ino) = whiteout {
            self.leave_whiteout(change, ino)?;
        }
        let moved = Self::put_at(change, &self.source, [&self.from, &self.to], self.new_name)?;
        let dir = i64::from(moved.is_dir());
        self.put_directories(change, -dir, dir - links_lost)?;
        Ok(unsettled)
    }

    /// Puts what kernel overlayfs takes for a whiteout where the moved name was.
    fn leave_whiteout(&self, change: &mut Change<'_>, ino: Ino) -> Result<()> {
        let node = NewNode { kind: FileKind::CharDevice, mode: 0, rdev: 0, body: Body::None };
        let inode = change.new_inode(self.request, ino, &self.from.inode, node)?;
        change.put_name(self.from.inode.ino, self.name, &inode);
        change.commit.put(inode);
        Ok(())
    }

    /// Notes what the replaced name falls back to while the bytes that replace it may be lost. A name that was
    /// replaced before falls back to the oldest of its files: the only one known to be whole.
    fn fall_back_to(&self, change: &mut Change<'_>, target: &Node) -> bool {
        let (parent, name) = (self.to.inode.ino, self.new_name.to_vec());
        let earlier = change.tables.replaced(parent, &name).map(|replaced| replaced.old);
        if change.state.volatility(&self.source) == Volatility::Durable {
            if let Some(old) = earlier {
                change.settle(parent, name, old);
            }
            return false;
        }
        change.commit.push(Effect::Unsettle(Unsettled {
            parent,
            name,
            old: earlier.unwrap_or(target.inode.ino),
            source: self.source.inode.ino,
            from: (self.from.inode.ino, self.name.to_vec()),
        }));
        true
    }

    fn exchange(&self, change: &mut Change<'_>, target: &Node) -> Result<()> {
        let moved = Self::put_at(change, &self.source, [&self.from, &self.to], self.new_name)?;
        let back = Self::put_at(change, target, [&self.to, &self.from], self.name)?;
        let links = i64::from(back.is_dir()) - i64::from(moved.is_dir());
        self.put_directories(change, links, -links)
    }

    fn put_at(
        change: &mut Change<'_>,
        node: &Node,
        [from, directory]: [&Node; 2],
        name: &[u8],
    ) -> Result<Inode> {
        let mut row = change.row_of(node)?;
        row.ctime = change.now;
        // A file that is known by another of its names stays known by that.
        if row.parent == Some(from.inode.ino) {
            row.parent = Some(directory.inode.ino);
        }
        change.put_name(directory.inode.ino, name, &row);
        change.commit.put(row.clone());
        Ok(row)
    }

    fn put_directories(&self, change: &mut Change<'_>, from_links: i64, to_links: i64) -> Result<()> {
        let moved = self.source.inode.ino;
        let from = change.row_of(&self.from)?;
        if self.from.inode.ino == self.to.inode.ino {
            change.put_directory(from, from_links + to_links, self.request, moved);
        } else {
            change.put_directory(from, from_links, self.request, moved);
            let to = change.row_of(&self.to)?;
            change.put_directory(to, to_links, self.request, moved);
        }
        Ok(())
    }
}

/// Refuses to move a directory beneath itself.
fn check_no_loop(change: &mut Change<'_>, moved: &Inode, into: &Node) -> Result<()> {
    let root = change.state.root;
    let mut at = into.clone();
    loop {
        if at.inode.ino == moved.ino {
            return Err(ViewError::Loop);
        }
        if at.inode.ino == root {
            return Ok(());
        }
        let parent = at.inode.parent.ok_or_else(|| ViewError::Damaged {
            ino: at.inode.ino,
            why: "a directory without a parent".to_owned(),
        })?;
        at = change.node(parent)?;
    }
}

fn check_linkable(inode: &Inode) -> Result<()> {
    if inode.is_dir() {
        return Err(ViewError::NotPermitted("directories have one name"));
    }
    if inode.nlink == 0 {
        return Err(ViewError::NotFound);
    }
    if inode.nlink >= LINK_MAX {
        return Err(ViewError::TooManyLinks);
    }
    Ok(())
}

fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > NAME_MAX {
        return Err(ViewError::NameTooLong);
    }
    if name.is_empty() || name == b"." || name == b".." || name.iter().any(|&byte| byte == 0 || byte == b'/')
    {
        return Err(ViewError::Invalid("not a name"));
    }
    Ok(())
}
