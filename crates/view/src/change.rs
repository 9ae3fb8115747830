//! One mutation in the making: reads the tables, collects effects, commits them whole.

use crate::acl::{self, Acl};
use crate::bring_in::WORTH_WHILE;
use crate::commit::{Commit, Effect};
use crate::crash;
use crate::error::{Result, ViewError};
use crate::inode::{Applied, Body, Inode};
use crate::layers::Upper;
use crate::request::Request;
use crate::state::State;
use crate::tables::{Node, Origin, Tables};
use foldhash::HashSet;
use selvedge_store::{FileKind, Ino, LayerId, Timestamp, Xattrs};
use std::sync::MutexGuard;

/// One mutation in the making. It holds the tables, so it sees no other mutation half done.
pub(crate) struct Change<'a> {
    pub(crate) state: &'a State,
    pub(crate) tables: MutexGuard<'a, Tables>,
    pub(crate) commit: Commit,
    pub(crate) now: Timestamp,
    pub(crate) upper: LayerId,
}

impl State {
    /// Runs `make` and commits what it collected, before anybody learns of it. An empty commit is none.
    pub(crate) fn change<T>(&self, make: impl FnOnce(&mut Change<'_>) -> Result<T>) -> Result<T> {
        self.change_with(false, make)
    }

    /// As [`change`](Self::change), for what gives room back: on a full disk it may use the reserve.
    pub(crate) fn change_freeing<T>(&self, make: impl FnOnce(&mut Change<'_>) -> Result<T>) -> Result<T> {
        self.change_with(true, make)
    }

    fn change_with<T>(&self, freeing: bool, make: impl FnOnce(&mut Change<'_>) -> Result<T>) -> Result<T> {
        self.check_writable()?;
        let (tables, upper) = self.writable_tables()?;
        let mut change =
            Change { state: self, tables, commit: Commit::new(), now: self.clock.now(), upper: upper.id };
        let made = make(&mut change)?;
        if change.commit.effects.is_empty() {
            return Ok(made);
        }
        change.put_ancestors()?;
        let Change { mut tables, commit, .. } = change;
        self.commit_to(&mut tables, &upper, &commit, freeing)?;
        if tables.upper().is_some_and(|catalog| catalog.backlog() >= WORTH_WHILE) {
            self.backlog.ring();
        }
        Ok(made)
    }

    /// Commits to `upper`, which the tables have, for what gives room back with the reserve's room if there is no other.
    pub(crate) fn commit_to(
        &self,
        tables: &mut Tables,
        upper: &Upper,
        commit: &Commit,
        freeing: bool,
    ) -> Result<()> {
        let committed = match tables.commit(commit) {
            Err(error) if freeing && error.is_disk_full() && upper.reserve.release() => {
                self.work.wake_soon();
                tables.commit(commit)
            }
            result => result,
        };
        match committed {
            Ok(()) => upper.log.committed(),
            Err(error) if error.is_disk_full() => return Err(error),
            Err(error) => return self.latch.guard("commit", Err(error)),
        }
        Ok(())
    }
}

impl Change<'_> {
    pub(crate) fn node(&mut self, ino: Ino) -> Result<Node> {
        self.state.node_in(&mut self.tables, ino)
    }

    /// The directory under this number, if it is one and has a name.
    pub(crate) fn directory(&mut self, ino: Ino) -> Result<Node> {
        let node = self.node(ino)?;
        node.live_directory()?;
        Ok(node)
    }

    pub(crate) fn child(&mut self, directory: &Inode, name: &[u8]) -> Result<Option<Node>> {
        self.state.child_in(&mut self.tables, directory, name)
    }

    /// The node as a row of the upper that says the same as the node does where it is.
    pub(crate) fn row_of(&self, node: &Node) -> Result<Inode> {
        let mut row = (*node.inode).clone();
        if node.origin != Origin::Layer(self.upper) {
            // What a lower layer says is durable before anything that the upper says.
            row.fallback = None;
        }
        if row.kind == FileKind::Regular {
            let (attr, host) = self.state.attr_and_host(node)?;
            (row.mtime, row.ctime) = (attr.mtime, attr.ctime);
            row.host_ctime = match row.body.layer() {
                Some(layer) if layer == self.upper => host.map(|host| host.ctime),
                _ => None,
            };
        }
        Ok(row)
    }

    /// Notes the host ctime that the row's own stands for.
    pub(crate) fn stand_for_host(&self, row: &mut Inode) -> Result<()> {
        row.host_ctime = match row.body.layer() {
            Some(layer) if layer == self.upper => self.state.host_stat(row)?.map(|host| host.ctime),
            _ => None,
        };
        Ok(())
    }

    /// Gives every directory above what the commit writes a row in the upper, saying what holds already. So the rows
    /// of a layer lead up to the root by themselves, and nobody searches the base for where a change is.
    fn put_ancestors(&mut self) -> Result<()> {
        let mut written: HashSet<Ino> = self.commit.inodes().map(|inode| inode.ino).collect();
        let named = self.commit.inodes().filter(|inode| inode.nlink > 0);
        let parents: Vec<Ino> = named.filter_map(|inode| inode.parent).collect();
        for parent in parents {
            let mut at = parent;
            while written.insert(at) {
                // Where a file had a name once may be gone by now.
                let Some(node) = self.state.node_nearby(&mut self.tables, at)? else { break };
                if node.origin == Origin::Layer(self.upper) {
                    break;
                }
                at = node.inode.parent.unwrap_or(at);
                self.commit.put((*node.inode).clone());
            }
        }
        Ok(())
    }

    /// The result of this request if it was carried out before.
    pub(crate) fn replayed(inode: &Inode, request: &Request) -> Option<Ino> {
        let applied = inode.applied.filter(|applied| request.resent && applied.key == request.key)?;
        crash::point("commit.again");
        Some(applied.result)
    }

    /// A new node with one name, owned by the caller; `directory` hands down its group and set-group bit.
    pub(crate) fn new_inode(
        &self,
        request: &Request,
        ino: Ino,
        directory: &Inode,
        new: NewNode,
    ) -> Result<Inode> {
        let inherits = directory.mode & libc::S_ISGID != 0;
        let is_dir = new.kind == FileKind::Directory;
        let set_group = if inherits && is_dir { libc::S_ISGID } else { 0 };
        let (mode, xattrs) = inherit(request, directory, &new)?;
        Ok(Inode {
            ino,
            kind: new.kind,
            mode: mode | set_group,
            uid: request.uid,
            gid: if inherits { directory.gid } else { request.gid },
            nlink: if is_dir { 2 } else { 1 },
            rdev: new.rdev,
            atime: self.now,
            mtime: self.now,
            ctime: self.now,
            host_ctime: None,
            parent: Some(directory.ino),
            body: new.body,
            fallback: None,
            xattrs,
            applied: None,
        })
    }

    /// Writes a directory whose names changed; `links` is the change in its number of subdirectories.
    pub(crate) fn put_directory(&mut self, mut row: Inode, links: i64, request: &Request, result: Ino) {
        row.nlink = u32::try_from((i64::from(row.nlink) + links).max(2)).unwrap_or(u32::MAX);
        (row.mtime, row.ctime) = (self.now, self.now);
        row.applied = Some(Applied::new(request, result));
        self.commit.put(row);
    }

    pub(crate) fn put_name(&mut self, parent: Ino, name: &[u8], inode: &Inode) {
        let (ino, kind) = (inode.ino, inode.kind);
        self.commit.push(Effect::PutName { parent, name: name.to_vec(), ino, kind });
    }

    /// Takes a name away: hides it if something below has it, else forgets it.
    pub(crate) fn remove_name(&mut self, directory: &Inode, name: &[u8]) -> Result<()> {
        let parent = directory.ino;
        let below = match self.tables.name_below(parent, name)? {
            Some(crate::catalog::NameRow::Node { .. }) => true,
            Some(crate::catalog::NameRow::Whiteout) => false,
            None => self.state.base_child(directory, name)?.is_some(),
        };
        let name = name.to_vec();
        if let Some(old) = self.tables.replaced(parent, &name).map(|replaced| replaced.old) {
            self.settle(parent, name.clone(), old);
        }
        self.commit.push(if below {
            Effect::Whiteout { parent, name }
        } else {
            Effect::DropName { parent, name }
        });
        Ok(())
    }

    /// Takes one name's worth off the node, which becomes an orphan with its last one.
    pub(crate) fn drop_link(&mut self, node: &Node) -> Result<()> {
        let nlink = if node.inode.is_dir() { 0 } else { node.inode.nlink.saturating_sub(1) };
        let ino = node.inode.ino;
        if node.inode.is_dir() {
            self.commit.push(Effect::DropNames(ino));
        }
        if nlink == 0 && node.origin == Origin::Layer(self.upper) {
            self.commit.push(Effect::AddOrphan { ino, since: Some(self.now) });
            return Ok(());
        }
        let row = self.row_of(node)?;
        if nlink == 0 {
            self.commit.push(Effect::AddOrphan { ino, since: None });
        }
        self.commit.put(Inode { nlink, ctime: self.now, ..row });
        Ok(())
    }

    /// Refuses a directory with entries.
    pub(crate) fn check_empty(&mut self, directory: &Inode) -> Result<()> {
        use crate::catalog::NameRow;
        let names = self.tables.names(directory.ino)?;
        if names.values().any(|row| matches!(row, NameRow::Node { .. })) {
            return Err(ViewError::NotEmpty);
        }
        if let Some(tree) = directory.tree()
            && self.state.base().tree(tree)?.iter_names().any(|(name, _, _)| !names.contains_key(name))
        {
            return Err(ViewError::NotEmpty);
        }
        Ok(())
    }
}

/// Mode and attributes of a new node: the directory's default access control list takes the place of the caller's
/// mask. Symbolic links have neither.
fn inherit(request: &Request, directory: &Inode, new: &NewNode) -> Result<(u32, Xattrs)> {
    let mode = new.mode & 0o7777;
    let mut xattrs = Xattrs::new();
    if new.kind == FileKind::Symlink {
        return Ok((mode, xattrs));
    }
    let Some(default) = directory.xattrs.get(acl::DEFAULT) else {
        return Ok((mode & !request.umask, xattrs));
    };
    let access = Acl::decode(default)?.inherited(mode);
    if !access.is_minimal() {
        xattrs.insert(acl::ACCESS.to_vec(), access.encode());
    }
    if new.kind == FileKind::Directory {
        xattrs.insert(acl::DEFAULT.to_vec(), default.to_vec());
    }
    Ok((acl::replace_permissions(mode, access.mode()), xattrs))
}

/// What a new node is.
pub(crate) struct NewNode {
    pub(crate) kind: FileKind,
    pub(crate) mode: u32,
    pub(crate) rdev: u64,
    pub(crate) body: Body,
}
