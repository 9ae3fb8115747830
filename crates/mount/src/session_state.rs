//! What a worker leaves for a successor that is nowhere else: which connection it serves, and what is open on it.
//!
//! A memory file, whose descriptor lies with the supervisor. It begins with a header, written once before anything
//! is open, what workers died of ([`poison`]), and the number of workers that have taken the connection
//! over; then come slots of 32 bytes, one for each open handle, and one for each file that is passed through. They are
//! mapped: writing one is four stores and no system call, and the file has them when the process is gone. A slot is
//! written before the OPEN is answered and emptied when the handle is released, so what a dead worker left says at
//! least what the kernel knows:
//!
//! - A slot that was torn by the death belongs to an OPEN that was not answered, and comes again; or to a RELEASE
//!   that comes again, of a handle that nobody uses any more. Either way it counts as empty.
//! - A handle is the number of the request that opened it and is never used again, so the slots are a set: the same
//!   OPEN written twice is one handle, and a RELEASE that comes twice finds nothing to do.
//! - The number under which the kernel knows a file that is passed through is noted before a reply uses it, and that it
//!   is given up before it is.
//!
//! Everything else a successor needs is in the thread's layers.

use foldhash::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{
    FallocateFlags, FlockOperation, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, fcntl_get_seals,
    flock, memfd_create,
};
use rustix::io::Errno;
use selvedge_mountpoint::{Device, MountIdentity};
use selvedge_store::Ino;
use selvedge_view::{Handle, OpenFlags, Opened, Words};

use crate::poison::{self, Poison};
use crate::session::InitExchange;

/// The version of the memory file.
pub(crate) const FORMAT: u32 = 3;

/// The first bytes: what this is, and which version of it ([`FORMAT`]).
const MAGIC: [u8; 8] = *b"SLVGSES3";

/// Where the slots begin. The header has a path and two messages, which together are far shorter.
const SLOTS: u64 = 64 * 1024;

/// Where the causes of deaths stand.
const DEATHS: u64 = SLOTS - 4096;

/// Where the number of takeovers stands: the last eight bytes before the slots.
const TAKEOVERS: u64 = SLOTS - 8;

/// Bytes of a slot.
const SLOT: usize = 32;

/// Words of a slot.
const WORDS: usize = SLOT / size_of::<u64>();

/// Slots of the first table, a page; each further table has twice those of the one before.
const FIRST: u32 = 128;

/// The most tables: 128 MiB of slots, for more handles than any limit of open files allows.
const MOST: u32 = 15;

/// The most handles that may be open at once.
const MAX_SLOTS: u32 = first_slot(MOST);

/// Where the number of the latest worker stands that has answered a request: the eight bytes before those.
const ANSWERED: u64 = TAKEOVERS - 8;

/// How long a program that a worker was just starting when it died may take to run.
const STARTING: Duration = Duration::from_secs(1);

/// The pause between two looks whether it does.
const PAUSE: Duration = Duration::from_millis(1);

/// Slots read at once.
const BATCH: usize = 4096;

/// What holds for the life of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// What tells the connection's requests from those of any other.
    pub epoch: u64,
    /// Which mount it is.
    pub identity: MountIdentity,
    /// What kernel and worker agreed on.
    pub init: InitExchange,
}

/// Why there is nothing to go on from.
#[derive(Debug, thiserror::Error)]
pub enum SessionStateError {
    /// The system refused.
    #[error("cannot {what} the session's state: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// It is none, or another version's, or damaged.
    #[error("the session's state cannot be used: {0}")]
    Damaged(&'static str),
    /// Another worker serves the connection.
    #[error("another worker serves the mount")]
    Served,
}

fn failed<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> SessionStateError {
    move |source| SessionStateError::Io { what, source: source.into() }
}

/// What is kept for a successor.
#[derive(Debug)]
pub struct SessionState {
    memory: File,
    slots: Mutex<Slots>,
    /// Which worker of the connection this process is.
    worker: AtomicU64,
    answered: AtomicBool,
    /// What nobody else has locked while this process serves.
    alone: OnceLock<File>,
}

/// What a worker left.
#[derive(Debug)]
pub struct Resumed {
    /// The state, to be gone on with.
    pub state: SessionState,
    /// The connection.
    pub header: Header,
    /// What is open on it.
    pub open: Vec<(Handle, Opened)>,
    /// Files that are passed through, or were.
    pub backings: Vec<(Ino, Backing)>,
}

/// What is known of a file that is passed through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// The kernel knows it by this number.
    Open(u32),
    /// The number is being given up, or was.
    Closing(u32),
    /// It has no number any more. Mappings of it may be left.
    Left,
}

/// Which slots are in use.
#[derive(Debug, Default)]
struct Slots {
    tables: Vec<Words>,
    of: HashMap<Handle, u32>,
    /// Those of files that are passed through.
    backings: HashMap<Ino, u32>,
    /// Emptied slots below `end`.
    free: Vec<u32>,
    /// The first slot that was never used.
    end: u32,
}

impl SessionState {
    /// An empty state, without a header yet.
    pub fn create() -> Result<Self, SessionStateError> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = memfd_create("selvedge-session", flags).map_err(failed("make room for"))?;
        fcntl_add_seals(&memory, SealFlags::SHRINK).map_err(failed("seal"))?;
        Ok(Self::over(memory.into(), Slots::default()))
    }

    /// Writes the header.
    pub fn begin(&self, header: &Header) -> Result<(), SessionStateError> {
        let bytes = header.encode();
        if bytes.len() as u64 > DEATHS {
            return Err(SessionStateError::Damaged("it does not fit"));
        }
        self.memory.write_all_at(&bytes, 0).map_err(failed("write"))
    }

    /// Reads what a worker left, and goes on from there.
    pub fn resume(memory: File) -> Result<Resumed, SessionStateError> {
        // Looking at a mapping of a file that was made shorter would end the process.
        if !fcntl_get_seals(&memory).map_err(failed("read"))?.contains(SealFlags::SHRINK) {
            return Err(SessionStateError::Damaged("it can be made shorter"));
        }
        let length = memory.metadata().map_err(failed("read"))?.len();
        let mut bytes = vec![0; usize::try_from(length.min(SLOTS)).unwrap_or(0)];
        memory.read_exact_at(&mut bytes, 0).map_err(failed("read"))?;
        let header = Header::decode(&bytes)?;
        let (slots, open, backings) = read_slots(&memory, length)?;
        Ok(Resumed { state: Self::over(memory, slots), header, open, backings })
    }

    const fn over(memory: File, slots: Slots) -> Self {
        Self {
            memory,
            slots: Mutex::new(slots),
            worker: AtomicU64::new(0),
            answered: AtomicBool::new(false),
            alone: OnceLock::new(),
        }
    }

    /// Makes sure that no other process serves the connection, from here to the end of this one. The lock is that of an open
    /// file of this process's own, not one of the duplicates that are handed around, so it ends with the process.
    pub fn serve_alone(&self) -> Result<(), SessionStateError> {
        let path = format!("/proc/self/fd/{}", self.memory.as_raw_fd());
        let own = File::options().read(true).write(true).open(path).map_err(failed("open"))?;
        let until = Instant::now() + STARTING;
        while let Err(errno) = flock(&own, FlockOperation::NonBlockingLockExclusive) {
            match errno {
                Errno::INTR => {}
                // A dead worker may have just been starting a program, which has a copy until it runs.
                Errno::WOULDBLOCK if Instant::now() < until => thread::sleep(PAUSE),
                Errno::WOULDBLOCK => return Err(SessionStateError::Served),
                errno => return Err(failed("lock")(errno)),
            }
        }
        let _ = self.alone.set(own);
        Ok(())
    }

    /// The memory file, for a successor.
    pub const fn memory(&self) -> &File {
        &self.memory
    }

    /// What the latest workers died of.
    pub fn poison(&self) -> Result<Poison, SessionStateError> {
        let mut bytes = [0; Poison::BYTES];
        // Until the first takeover the file may end before.
        read_some(&self.memory, &mut bytes, DEATHS).map_err(failed("read"))?;
        Ok(Poison::of(&bytes))
    }

    /// Has this process note what it dies of, as worker number `takeovers` of the connection.
    pub fn blame(&self, takeovers: u64) {
        poison::note_deaths(&self.memory, DEATHS, takeovers);
    }

    /// Counts a takeover, and says the how manieth it is.
    pub fn taken_over(&self) -> Result<u64, SessionStateError> {
        let mut bytes = [0; 8];
        // Until the first takeover the file may end before.
        read_some(&self.memory, &mut bytes, TAKEOVERS).map_err(failed("read"))?;
        let number = u64::from_le_bytes(bytes).saturating_add(1);
        self.memory.write_all_at(&number.to_le_bytes(), TAKEOVERS).map_err(failed("write"))?;
        self.worker.store(number, Ordering::Relaxed);
        Ok(number)
    }

    /// Takes note, the first time, that this worker answers a request: it may die before it has told anybody.
    pub fn answers(&self) {
        if self.answered.load(Ordering::Relaxed) || self.answered.swap(true, Ordering::Relaxed) {
            return;
        }
        let number = self.worker.load(Ordering::Relaxed).to_le_bytes();
        if let Err(error) = self.memory.write_all_at(&number, ANSWERED) {
            tracing::warn!("that a request was answered cannot be kept: {error}");
        }
    }

    /// How many workers in a row before number `takeover` of the connection have answered nothing.
    pub fn fruitless(&self, takeover: u64) -> Result<u64, SessionStateError> {
        let mut bytes = [0; 8];
        // Until the first takeover the file may end before. The first worker, number 0, counts as one that has answered.
        read_some(&self.memory, &mut bytes, ANSWERED).map_err(failed("read"))?;
        Ok(takeover.saturating_sub(1).saturating_sub(u64::from_le_bytes(bytes)))
    }

    /// Takes note of a handle, before anybody learns of it. One that is known already stays as it is.
    pub fn opened(&self, handle: Handle, opened: Opened) -> io::Result<()> {
        let mut slots = self.slots();
        if !slots.of.contains_key(&handle) {
            let slot = slots.take(&self.memory)?;
            slots.of.insert(handle, slot);
            slots.write(slot, &encode_slot(handle, opened));
        }
        Ok(())
    }

    /// Forgets a handle that was released. Doing so again does nothing.
    pub fn released(&self, handle: Handle) {
        let mut slots = self.slots();
        if let Some(slot) = slots.of.remove(&handle) {
            slots.give_up(slot);
        }
    }

    /// Takes note of what becomes of a file that is passed through.
    pub(crate) fn note_backing(&self, ino: Ino, backing: Backing) -> io::Result<()> {
        let mut slots = self.slots();
        let slot = if let Some(slot) = slots.backings.get(&ino) {
            *slot
        } else {
            let slot = slots.take(&self.memory)?;
            slots.backings.insert(ino, slot);
            slot
        };
        slots.write(slot, &encode_backing(ino, backing));
        Ok(())
    }

    /// Forgets a file that is passed through no more.
    pub(crate) fn forget_backing(&self, ino: Ino) {
        let mut slots = self.slots();
        if let Some(slot) = slots.backings.remove(&ino) {
            slots.give_up(slot);
        }
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        // Every change is a whole step of one thread: the maps agree at any point where a thread could panic.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slots {
    /// A slot that is free. The memory for it is there: where the system has none, that is an error here and not a signal
    /// when it is written.
    fn take(&mut self, memory: &File) -> io::Result<u32> {
        if let Some(slot) = self.free.pop() {
            return Ok(slot);
        }
        if self.end == MAX_SLOTS {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        self.map(memory, self.end + 1)?;
        self.end += 1;
        Ok(self.end - 1)
    }

    /// Has the tables of the first `count` slots mapped.
    fn map(&mut self, memory: &File, count: u32) -> io::Result<()> {
        for table in (0..MOST).skip(self.tables.len()).take_while(|table| first_slot(*table) < count) {
            let (begin, end) = (position(first_slot(table)), position(first_slot(table + 1)));
            fallocate(memory, FallocateFlags::empty(), begin, end - begin)?;
            let words = usize::try_from((end - begin) / size_of::<u64>() as u64).unwrap_or(usize::MAX);
            self.tables.push(Words::map(memory, begin, words)?);
        }
        Ok(())
    }

    /// Writes a slot, its checksum last.
    fn write(&self, slot: u32, bytes: &[u8; SLOT]) {
        for (word, bytes) in self.words(slot).iter().zip(bytes.as_chunks().0) {
            word.store(u64::from_le_bytes(*bytes), Ordering::Release);
        }
    }

    /// Empties a slot, its checksum first.
    fn give_up(&mut self, slot: u32) {
        for word in self.words(slot).iter().rev() {
            word.store(0, Ordering::Release);
        }
        self.free.push(slot);
    }

    fn words(&self, slot: u32) -> &[AtomicU64] {
        let table = (slot / FIRST + 1).ilog2();
        let first = (slot - first_slot(table)) as usize * WORDS;
        // Every slot that was taken has its table.
        let words = self.tables.get(table as usize).map_or(&[][..], Words::words);
        words.get(first..first + WORDS).unwrap_or_default()
    }
}

/// The first slot of a table.
const fn first_slot(table: u32) -> u32 {
    FIRST * ((1 << table) - 1)
}

fn position(slot: u32) -> u64 {
    SLOTS + u64::from(slot) * SLOT as u64
}

/// What the slots hold: which are in use, and what for.
type Held = (Slots, Vec<(Handle, Opened)>, Vec<(Ino, Backing)>);

fn read_slots(memory: &File, length: u64) -> Result<Held, SessionStateError> {
    let count = length.saturating_sub(SLOTS).div_ceil(SLOT as u64).min(u64::from(MAX_SLOTS));
    let count = u32::try_from(count).unwrap_or(MAX_SLOTS);
    let mut slots = Slots::default();
    slots.map(memory, count).map_err(failed("map"))?;
    let (mut open, mut backings) = (Vec::new(), Vec::new());
    let mut bytes = vec![0; SLOT * BATCH];
    for first in (0..count).step_by(BATCH) {
        let filled = read_some(memory, &mut bytes, position(first)).map_err(failed("read"))?;
        for (slot, bytes) in (first..count).zip(bytes[..filled].chunks(SLOT)) {
            match decode_slot(bytes) {
                Some(Slot::Handle(handle, opened)) if !slots.of.contains_key(&handle) => {
                    slots.of.insert(handle, slot);
                    open.push((handle, opened));
                }
                Some(Slot::Backing(ino, backing)) if !slots.backings.contains_key(&ino) => {
                    slots.backings.insert(ino, slot);
                    backings.push((ino, backing));
                }
                Some(_) | None => continue,
            }
            slots.free.extend(slots.end..slot);
            slots.end = slot + 1;
        }
    }
    Ok((slots, open, backings))
}

/// Reads until the buffer is full or the file ends.
fn read_some(memory: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match memory.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

const FILE: u32 = 1;
const DIRECTORY: u32 = 2;
const BACKING: u32 = 3;
const READ: u32 = 1;
const WRITE: u32 = 2;
const PASSED: u32 = 4;
const OPEN: u32 = 1;
const CLOSING: u32 = 2;
const LEFT: u32 = 3;

/// What a slot is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Handle(Handle, Opened),
    Backing(Ino, Backing),
}

fn encode_slot(handle: Handle, opened: Opened) -> [u8; SLOT] {
    let bits = |flags: OpenFlags| if flags.read { READ } else { 0 } | if flags.write { WRITE } else { 0 };
    let (ino, kind, flags) = match opened {
        Opened::File(ino, flags) => (ino, FILE, bits(flags)),
        Opened::Passed(ino, flags) => (ino, FILE, bits(flags) | PASSED),
        Opened::Directory(ino) => (ino, DIRECTORY, 0),
    };
    encode(handle.0, ino, kind, flags)
}

fn encode_backing(ino: Ino, backing: Backing) -> [u8; SLOT] {
    let (id, state) = match backing {
        Backing::Open(id) => (id, OPEN),
        Backing::Closing(id) => (id, CLOSING),
        Backing::Left => (0, LEFT),
    };
    encode(id.into(), ino, BACKING, state)
}

fn encode(number: u64, ino: Ino, kind: u32, flags: u32) -> [u8; SLOT] {
    let mut slot = [0; SLOT];
    slot[..8].copy_from_slice(&number.to_le_bytes());
    slot[8..16].copy_from_slice(&ino.0.to_le_bytes());
    slot[16..20].copy_from_slice(&kind.to_le_bytes());
    slot[20..24].copy_from_slice(&flags.to_le_bytes());
    let sum = checksum(&slot[..24]);
    slot[24..].copy_from_slice(&sum.to_le_bytes());
    slot
}

/// `None` for a slot that is empty, torn or damaged.
fn decode_slot(bytes: &[u8]) -> Option<Slot> {
    let mut fields = Fields(bytes);
    let (number, ino) = (fields.u64()?, Ino(fields.u64()?));
    let (kind, flags) = (fields.u32()?, fields.u32()?);
    if fields.u64()? != checksum(bytes.get(..24)?) {
        return None;
    }
    let opened = match kind {
        FILE => {
            let bits = OpenFlags { read: flags & READ != 0, write: flags & WRITE != 0, exclusive: false };
            if flags & PASSED == 0 { Opened::File(ino, bits) } else { Opened::Passed(ino, bits) }
        }
        DIRECTORY => Opened::Directory(ino),
        BACKING => {
            let id = u32::try_from(number).ok()?;
            let backing = match flags {
                OPEN => Backing::Open(id),
                CLOSING => Backing::Closing(id),
                LEFT => Backing::Left,
                _ => return None,
            };
            return Some(Slot::Backing(ino, backing));
        }
        _ => return None,
    };
    Some(Slot::Handle(Handle(number), opened))
}

impl Header {
    fn encode(&self) -> Vec<u8> {
        use std::os::unix::ffi::OsStrExt as _;
        let mut body = Vec::new();
        body.extend(self.epoch.to_le_bytes());
        body.extend(self.identity.mount_id.to_le_bytes());
        body.extend(u32::from(self.identity.unique_id.is_some()).to_le_bytes());
        body.extend(self.identity.unique_id.unwrap_or(0).to_le_bytes());
        body.extend(self.identity.device.major.to_le_bytes());
        body.extend(self.identity.device.minor.to_le_bytes());
        for bytes in [self.identity.path.as_os_str().as_bytes(), &self.init.request, &self.init.reply] {
            body.extend((bytes.len() as u64).to_le_bytes());
            body.extend(bytes);
        }
        let mut header = MAGIC.to_vec();
        header.extend((body.len() as u64).to_le_bytes());
        header.extend(checksum(&body).to_le_bytes());
        header.extend(body);
        header
    }

    fn decode(bytes: &[u8]) -> Result<Self, SessionStateError> {
        let Some(rest) = bytes.strip_prefix(&MAGIC) else {
            return Err(SessionStateError::Damaged("it is none, or of another version"));
        };
        Self::decode_body(rest).ok_or(SessionStateError::Damaged("its header is damaged"))
    }

    fn decode_body(bytes: &[u8]) -> Option<Self> {
        use std::os::unix::ffi::OsStringExt as _;
        let mut fields = Fields(bytes);
        let (length, sum) = (fields.u64()?, fields.u64()?);
        let body = fields.take(usize::try_from(length).ok()?)?;
        if checksum(body) != sum {
            return None;
        }
        let mut fields = Fields(body);
        let (epoch, mount_id, has_unique) = (fields.u64()?, fields.u64()?, fields.u32()?);
        let unique_id = Some(fields.u64()?).filter(|_| has_unique == 1);
        let device = Device { major: fields.u32()?, minor: fields.u32()? };
        let path = std::ffi::OsString::from_vec(fields.bytes()?).into();
        let init = InitExchange { request: fields.bytes()?, reply: fields.bytes()? };
        Some(Self { epoch, identity: MountIdentity { mount_id, unique_id, device, path }, init })
    }
}

/// Takes values off the front of some bytes, as long as there are enough.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn bytes(&mut self) -> Option<Vec<u8>> {
        let length = usize::try_from(self.u64()?).ok()?;
        self.take(length).map(<[u8]>::to_vec)
    }
}

/// FNV-1a: each byte's step is a bijection, so no change of a single byte goes unnoticed.
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests;
