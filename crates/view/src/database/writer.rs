//! Writing what mutations come to into a catalog's database.

use super::{read_fallbacks, set_meta, signed};
use crate::catalog::Unsettled;
use crate::commit::Effect;
use crate::error::Result;
use crate::inode::Inode;
use crate::record;
use foldhash::HashSet;
use rusqlite::{CachedStatement, Connection, params};
use selvedge_store::Ino;

/// Applies effects, one after the other. What many of them need is prepared once.
pub(super) struct Writer<'db> {
    db: &'db Connection,
    fallbacks: &'db mut Option<HashSet<Ino>>,
    row: Vec<u8>,
    put_inode: Prepared<'db>,
    delete_inode: Prepared<'db>,
    put_name: Prepared<'db>,
    drop_name: Prepared<'db>,
    add_orphan: Prepared<'db>,
    drop_orphan: Prepared<'db>,
}

impl<'db> Writer<'db> {
    pub(super) fn new(db: &'db Connection, fallbacks: &'db mut Option<HashSet<Ino>>) -> Self {
        Self {
            db,
            fallbacks,
            row: Vec::new(),
            put_inode: Prepared::new(
                "INSERT INTO nodes(ino, row) VALUES(?1, ?2) ON CONFLICT(ino) DO UPDATE SET row = excluded.row",
            ),
            delete_inode: Prepared::new("DELETE FROM nodes WHERE ino = ?1"),
            put_name: Prepared::new(
                "INSERT INTO names(parent, name, ino, kind) VALUES(?1, ?2, ?3, ?4)
                 ON CONFLICT(parent, name) DO UPDATE SET ino = excluded.ino, kind = excluded.kind",
            ),
            drop_name: Prepared::new("DELETE FROM names WHERE parent = ?1 AND name = ?2"),
            add_orphan: Prepared::new("INSERT OR REPLACE INTO orphans VALUES(?1, ?2, ?3)"),
            drop_orphan: Prepared::new("DELETE FROM orphans WHERE ino = ?1"),
        }
    }

    pub(super) fn apply(&mut self, effect: &Effect) -> Result<()> {
        let db = self.db;
        match effect {
            Effect::PutInode(inode) => return self.put_inode(inode),
            Effect::DeleteInode(ino) => {
                self.set_fallback(*ino, false)?;
                self.delete_inode.on(db)?.execute([signed(ino.0)])?
            }
            Effect::PutName { parent, name, ino, kind } => self.put_name(*parent, name, *ino, kind.code())?,
            Effect::Whiteout { parent, name } => self.put_name(*parent, name, Ino(0), 0)?,
            Effect::DropName { parent, name } => {
                self.drop_name.on(db)?.execute(params![signed(parent.0), name])?
            }
            Effect::DropNames(parent) => {
                db.prepare_cached("DELETE FROM names WHERE parent = ?1")?.execute([signed(parent.0)])?
            }
            Effect::AddOrphan { ino, since } => {
                let (sec, nsec) = (since.map(|time| time.sec), since.map(|time| time.nsec));
                self.add_orphan.on(db)?.execute(params![signed(ino.0), sec, nsec])?
            }
            Effect::DropOrphan(ino) => self.drop_orphan.on(db)?.execute([signed(ino.0)])?,
            Effect::Unsettle(Unsettled { parent, name, old, source, from }) => db
                .prepare_cached("INSERT OR REPLACE INTO unsettled VALUES(?1, ?2, ?3, ?4, ?5, ?6)")?
                .execute(params![
                    signed(parent.0),
                    name,
                    signed(old.0),
                    signed(source.0),
                    signed(from.0.0),
                    from.1
                ])?,
            Effect::Found => return set_meta(db, "unfounded", 0),
            Effect::Settle { parent, name } => db
                .prepare_cached("DELETE FROM unsettled WHERE parent = ?1 AND name = ?2")?
                .execute(params![signed(parent.0), name])?,
        };
        Ok(())
    }

    fn put_name(&mut self, parent: Ino, name: &[u8], ino: Ino, kind: u8) -> Result<usize> {
        let values = params![signed(parent.0), name, signed(ino.0), kind];
        Ok(self.put_name.on(self.db)?.execute(values)?)
    }

    fn put_inode(&mut self, inode: &Inode) -> Result<()> {
        self.set_fallback(inode.ino, inode.fallback.is_some())?;
        self.row.clear();
        record::encode_row(inode, &mut self.row)?;
        self.put_inode.on(self.db)?.execute(params![signed(inode.ino.0), self.row])?;
        Ok(())
    }

    /// Notes whether the node has a fallback.
    fn set_fallback(&mut self, ino: Ino, has: bool) -> Result<()> {
        let known = match self.fallbacks.take() {
            Some(known) => known,
            None => read_fallbacks(self.db)?,
        };
        let known = self.fallbacks.insert(known);
        if has && known.insert(ino) {
            self.db.prepare_cached("INSERT INTO fallbacks VALUES(?1)")?.execute([signed(ino.0)])?;
        } else if !has && known.remove(&ino) {
            self.db.prepare_cached("DELETE FROM fallbacks WHERE ino = ?1")?.execute([signed(ino.0)])?;
        }
        Ok(())
    }
}

/// A statement that is prepared when it is first needed.
struct Prepared<'db> {
    sql: &'static str,
    statement: Option<CachedStatement<'db>>,
}

impl<'db> Prepared<'db> {
    const fn new(sql: &'static str) -> Self {
        Self { sql, statement: None }
    }

    fn on(&mut self, db: &'db Connection) -> Result<&mut CachedStatement<'db>> {
        let statement = match self.statement.take() {
            Some(statement) => statement,
            None => db.prepare_cached(self.sql)?,
        };
        Ok(self.statement.insert(statement))
    }
}
