//! A catalog's journal: a file to which each mutation is appended as one record, before the catalog's own file has it.
//!
//! The file has two regions, which are written in turn, each from its beginning. Records are numbered without gaps over
//! both. A region is written again when the catalog's file has all of its records, durable; what it holds from before is
//! told by its salt, drawn anew each time. So appending needs no more room than there was, and ends where a record is
//! torn, of another salt, or of another number than is due.
//!
//! A record is in the kernel when it is appended, so the death of the process cannot lose it;
//! [`crate::log_sync`] makes it durable.

use crate::crash;
use crate::error::{Result, ViewError};
use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// In a layer's directory, as long as its catalog is written.
pub(crate) const NAME: &str = "catalog.journal";

/// Length of a region: how far the catalog's file may lag behind before who commits has to wait for it.
const REGION: u64 = 4 << 20;

/// A region that is longer is left as soon as the other is free: what a successor has to read, and how often everybody who asks the
/// catalog's file waits until it is durable.
const LONG: u64 = 2 << 20;

/// Room is taken from the disk in steps of so many bytes.
const STEP: u64 = 128 << 10;

/// Bytes read at once.
const BLOCK: usize = 256 << 10;

/// Before each record: its hash, the region's salt, its number, its length.
const HEADER: usize = 16 + 8 + 8 + 4;

/// Which is which in [`HEADER`].
const SALT: Range<usize> = 16..24;

/// One region.
#[derive(Debug, Clone, Copy, Default)]
struct Region {
    salt: u64,
    /// The number of its last record.
    last: u64,
    /// How far room was taken from the disk.
    allocated: u64,
}

/// A journal that is appended to.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    regions: [Region; 2],
    /// The region that is written.
    current: usize,
    /// Where in that region the next record begins.
    end: u64,
    /// The number of the next record.
    next: u64,
    buffer: Vec<u8>,
}

/// A record that was found: its number and its bytes.
pub(crate) type Record = (u64, Vec<u8>);

/// What a journal was found to hold.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) journal: Journal,
    /// What the catalog's file lacks, in order.
    pub(crate) records: Vec<Record>,
    /// There is more behind the last record that counts, which could be taken for what follows it later on: the journal
    /// has to begin anew before it is appended to.
    pub(crate) torn: bool,
}

/// What one region holds.
#[derive(Debug, Default)]
struct Content {
    /// What the catalog's file lacks.
    records: Vec<Record>,
    /// The numbers of the first and the last record, whether the file has them or not.
    bounds: Option<(u64, u64)>,
    salt: u64,
    end: u64,
    torn: bool,
}

impl Journal {
    /// Makes an empty one; `brought_in` is the number of the last record that the catalog's file has.
    pub(crate) fn create(directory: &Path, brought_in: u64) -> Result<Self> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::open(directory.join(NAME), flags, Mode::from_raw_mode(0o600))
            .map_err(ViewError::host("make the catalog's journal"))?;
        let mut journal = Self::new(file.into(), brought_in);
        journal.regions[0].salt = salt()?;
        Ok(journal)
    }

    /// Opens the one there is, if there is one, and reads what comes after the record `brought_in`.
    pub(crate) fn open(directory: &Path, brought_in: u64) -> Result<Option<Found>> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = match rustix::fs::open(directory.join(NAME), flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(ViewError::host("open the catalog's journal")(error)),
        };
        let read =
            |region| read(&file, region, brought_in).map_err(ViewError::host("read the catalog's journal"));
        let contents = [read(0)?, read(1)?];
        Self::new(file, brought_in).continued(contents).map(Some)
    }

    fn new(file: File, brought_in: u64) -> Self {
        Self {
            file,
            regions: Default::default(),
            current: 0,
            end: 0,
            next: brought_in + 1,
            buffer: Vec::new(),
        }
    }

    /// Goes on behind the last record of `contents` that counts.
    fn continued(mut self, contents: [Content; 2]) -> Result<Found> {
        let first = |content: &Content| content.bounds.map_or(u64::MAX, |(first, _)| first);
        let second_is_older = first(&contents[1]) < first(&contents[0]);
        let mut order: Vec<(usize, Content)> = contents.into_iter().enumerate().collect();
        if second_is_older {
            order.reverse();
        }
        let mut found = Vec::new();
        let mut torn = false;
        for (index, content) in order {
            let Some((begins, ends)) = content.bounds else { continue };
            if begins > self.next {
                // What it follows is torn.
                torn = true;
                continue;
            }
            self.regions[index] = Region {
                salt: content.salt,
                last: ends,
                allocated: content.end.next_multiple_of(STEP).min(REGION),
            };
            (self.current, self.end) = (index, content.end);
            torn |= content.torn;
            found.extend(content.records.into_iter().filter(|(number, _)| *number >= self.next));
            self.next = self.next.max(ends + 1);
        }
        if self.regions[self.current].last == 0 {
            self.regions[self.current].salt = salt()?;
        }
        Ok(Found { journal: self, records: found, torn })
    }

    /// Whether the next record, of `length` bytes, fits where it would be written.
    pub(crate) fn has_room(&self, length: usize) -> bool {
        self.end + (HEADER + length) as u64 <= REGION
    }

    /// Whether a record of `length` bytes fits at all.
    pub(crate) fn can_hold(length: usize) -> bool {
        (HEADER + length) as u64 <= REGION
    }

    /// Whether the region that is written is as long as it needs to be.
    pub(crate) fn is_long(&self) -> bool {
        self.end >= LONG
    }

    /// Appends what `write` writes, and tells its number.
    ///
    /// # Errors
    /// When the disk fails or is full: then nothing was appended.
    pub(crate) fn append(&mut self, write: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<Appended> {
        self.buffer.clear();
        self.buffer.resize(HEADER, 0);
        write(&mut self.buffer)?;
        let length = self.buffer.len() - HEADER;
        if !self.has_room(length) {
            self.buffer = Vec::new();
            return Ok(Appended::NoRoom(length));
        }
        let Ok(length) = u32::try_from(length) else { return Ok(Appended::NoRoom(length)) };
        let region = self.regions[self.current];
        let header = Header { salt: region.salt, number: self.next, length };
        let (head, payload) = self.buffer.split_at_mut(HEADER);
        head.copy_from_slice(&header.encode(payload));
        self.allocate()?;
        crash::point("journal.before-write");
        let at = start(self.current) + self.end;
        self.file
            .write_all_at(&self.buffer, at)
            .map_err(ViewError::host("write to the catalog's journal"))?;
        self.end += self.buffer.len() as u64;
        self.regions[self.current].last = self.next;
        self.next += 1;
        Ok(Appended::Record(header.number))
    }

    /// Takes the room that the buffer needs from the disk, so that a record is not begun that has none.
    fn allocate(&mut self) -> Result<()> {
        let region = &mut self.regions[self.current];
        let needed = (self.end + self.buffer.len() as u64).next_multiple_of(STEP).min(REGION);
        if needed > region.allocated {
            let from = start(self.current) + region.allocated;
            let length = needed - region.allocated;
            match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), from, length) {
                // A disk that cannot do that refuses the write itself.
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => region.allocated = needed,
                Err(error) => return Err(ViewError::host("make room for the catalog's journal")(error)),
            }
        }
        Ok(())
    }

    /// Goes on in the other region, if the catalog's file has all of its records: those up to `durable`. Tells whether it
    /// does.
    pub(crate) fn switch(&mut self, durable: u64) -> Result<bool> {
        let other = 1 - self.current;
        if self.regions[other].last > durable {
            return Ok(false);
        }
        self.regions[other].salt = salt()?;
        (self.current, self.end) = (other, 0);
        Ok(true)
    }

    /// Forgets everything: the catalog's file has all of it, durable.
    pub(crate) fn begin_anew(&mut self) -> Result<()> {
        let clear = |region| self.file.write_all_at(&[0; HEADER], start(region));
        clear(0)
            .and_then(|()| clear(1))
            .and_then(|()| self.file.sync_data())
            .map_err(ViewError::host("clear the catalog's journal"))?;
        for region in &mut self.regions {
            region.last = 0;
        }
        self.regions[self.current].salt = salt()?;
        self.end = 0;
        Ok(())
    }

    /// Removes the journal of a catalog whose file has all of it, durable.
    pub(crate) fn remove(directory: &Path) -> Result<()> {
        match std::fs::remove_file(directory.join(NAME)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(ViewError::host("remove the catalog's journal")(error))
            }
            _ => Ok(()),
        }
    }
}

/// What became of an attempt to append.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Appended {
    /// The record has this number.
    Record(u64),
    /// It has so many bytes, and they do not fit into what is left of the region.
    NoRoom(usize),
}

/// What comes before a record, but for the hash over it and the record.
#[derive(Debug, Clone, Copy)]
struct Header {
    salt: u64,
    number: u64,
    length: u32,
}

impl Header {
    fn encode(self, payload: &[u8]) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[SALT].copy_from_slice(&self.salt.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.number.to_le_bytes());
        bytes[32..].copy_from_slice(&self.length.to_le_bytes());
        let mut hasher = blake3::Hasher::new();
        hasher.update(&bytes[SALT.start..]).update(payload);
        bytes[..SALT.start].copy_from_slice(&hasher.finalize().as_bytes()[..SALT.start]);
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (salt, rest) = bytes.get(SALT.start..)?.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        Some(Self {
            salt: u64::from_le_bytes(*salt),
            number: u64::from_le_bytes(*number),
            length: u32::from_le_bytes(*rest.first_chunk()?),
        })
    }
}

/// Where a region begins.
fn start(region: usize) -> u64 {
    if region == 0 { 0 } else { REGION }
}

/// A number that no region had before.
fn salt() -> Result<u64> {
    let mut bytes = [0; 8];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(8) => Ok(u64::from_le_bytes(bytes)),
        Ok(_) => Err(ViewError::host("draw a number")(io::ErrorKind::UnexpectedEof)),
        Err(error) => Err(ViewError::host("draw a number")(error)),
    }
}

/// Reads a region's records, up to the first that is not whole. Those up to `brought_in` are passed over by their headers:
/// nobody needs what they say, and only a loss of power makes anything else of them than what was written, after which the
/// journal begins anew.
fn read(file: &File, region: usize, brought_in: u64) -> io::Result<Content> {
    let end = file.metadata()?.len().min(start(region) + REGION);
    let mut bytes = Bytes { file, from: start(region), end, buffer: Vec::new() };
    let mut content = Content::default();
    loop {
        let begin = start(region) + content.end;
        let Some(header) = bytes.get(begin, HEADER)?.and_then(Header::decode) else { break };
        let continues = content.bounds;
        if continues.is_some() && header.salt != content.salt {
            break;
        }
        let length = HEADER + header.length as usize;
        let due = header.number > 0 && continues.is_none_or(|(_, last)| header.number == last + 1);
        let whole = due
            && if header.number <= brought_in {
                begin + length as u64 <= end
            } else if let Some(record) = bytes.get(begin, length)?
                && record[..HEADER] == header.encode(&record[HEADER..])
            {
                content.records.push((header.number, record[HEADER..].to_vec()));
                true
            } else {
                false
            };
        if !whole {
            content.torn = continues.is_some();
            break;
        }
        content.bounds = Some((continues.map_or(header.number, |(first, _)| first), header.number));
        content.salt = header.salt;
        content.end += length as u64;
    }
    Ok(content)
}

/// A range of a file, read block by block as far as it is needed, and from its beginning to its end.
struct Bytes<'a> {
    file: &'a File,
    /// Where in the file the buffer begins.
    from: u64,
    end: u64,
    buffer: Vec<u8>,
}

impl Bytes<'_> {
    /// So many bytes at `begin`, if there are as many. What comes before is not asked for again.
    fn get(&mut self, begin: u64, length: usize) -> io::Result<Option<&[u8]>> {
        if begin.checked_add(length as u64).is_none_or(|end| end > self.end) {
            return Ok(None);
        }
        let mut skipped = usize::try_from(begin - self.from).unwrap_or(usize::MAX);
        if skipped > BLOCK {
            self.buffer.drain(..skipped.min(self.buffer.len()));
            (self.from, skipped) = (begin, 0);
        }
        while self.buffer.len() < skipped + length {
            let have = self.buffer.len();
            let at = self.from + have as u64;
            let want = BLOCK.min(usize::try_from(self.end - at).unwrap_or(BLOCK));
            self.buffer.resize(have + want, 0);
            let read = self.file.read_at(&mut self.buffer[have..], at);
            self.buffer.truncate(have + read.as_ref().map_or(0, |read| *read));
            match read {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.buffer.get(skipped..skipped + length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn payload(number: u64) -> Vec<u8> {
        format!("record {number}{}", "x".repeat(usize::try_from(number % 7).unwrap())).into_bytes()
    }

    fn append(journal: &mut Journal, bytes: &[u8]) -> u64 {
        let write = |into: &mut Vec<u8>| {
            into.extend_from_slice(bytes);
            Ok(())
        };
        match journal.append(write).unwrap() {
            Appended::Record(number) => number,
            Appended::NoRoom(length) => panic!("no room for {length} bytes"),
        }
    }

    fn append_numbered(journal: &mut Journal, numbers: Range<u64>) {
        for number in numbers {
            assert_eq!(append(journal, &payload(number)), number);
        }
    }

    fn open(dir: &TempDir, brought_in: u64) -> Found {
        Journal::open(dir.path(), brought_in).unwrap().expect("a journal")
    }

    fn numbers(found: &Found) -> Vec<u64> {
        for (number, bytes) in &found.records {
            assert_eq!(*bytes, payload(*number));
        }
        found.records.iter().map(|(number, _)| *number).collect()
    }

    /// Records 1 to 4 in the first region, 5 to 8 in the second.
    fn two_regions(dir: &TempDir) -> Journal {
        let mut journal = Journal::create(dir.path(), 0).unwrap();
        append_numbered(&mut journal, 1..5);
        assert!(journal.switch(0).unwrap());
        append_numbered(&mut journal, 5..9);
        journal
    }

    #[test]
    fn what_was_appended_is_found_and_appending_goes_on_behind_it() {
        let dir = TempDir::new().unwrap();
        assert!(Journal::open(dir.path(), 0).unwrap().is_none());
        drop(two_regions(&dir));
        let mut found = open(&dir, 0);
        assert_eq!((numbers(&found), found.torn), ((1..9).collect(), false));
        append_numbered(&mut found.journal, 9..12);
        assert_eq!(numbers(&open(&dir, 0)), (1..12).collect::<Vec<_>>());
        assert_eq!(numbers(&open(&dir, 6)), (7..12).collect::<Vec<_>>());
        assert_eq!(numbers(&open(&dir, 11)), []);
        append_numbered(&mut open(&dir, 11).journal, 12..13);
        assert_eq!(numbers(&open(&dir, 11)), [12]);
        Journal::remove(dir.path()).unwrap();
        Journal::remove(dir.path()).unwrap();
        assert!(Journal::open(dir.path(), 12).unwrap().is_none());
    }

    #[test]
    fn a_region_is_written_again_only_when_the_file_has_all_of_it_and_what_it_had_is_not_found() {
        let dir = TempDir::new().unwrap();
        let mut journal = two_regions(&dir);
        assert!(!journal.switch(3).unwrap(), "record 4 is in the journal alone");
        assert!(journal.switch(4).unwrap());
        append_numbered(&mut journal, 9..11);
        assert_eq!(numbers(&open(&dir, 4)), (5..11).collect::<Vec<_>>());
        assert_eq!(numbers(&open(&dir, 8)), [9, 10]);
        assert!(journal.switch(8).unwrap());
        append_numbered(&mut journal, 11..12);
        let mut found = open(&dir, 8);
        assert_eq!((numbers(&found), found.torn), (vec![9, 10, 11], false));
        assert!(!found.journal.switch(9).unwrap());
    }

    #[test]
    fn a_journal_that_is_cut_off_anywhere_has_the_records_before() {
        let dir = TempDir::new().unwrap();
        let mut journal = Journal::create(dir.path(), 0).unwrap();
        append_numbered(&mut journal, 1..9);
        let ends: Vec<u64> = (1..9)
            .scan(0, |end, number| {
                *end += (HEADER + payload(number).len()) as u64;
                Some(*end)
            })
            .collect();
        let last = *ends.last().unwrap();
        assert_eq!(last, journal.end);
        for cut in (0..last).rev() {
            journal.file.set_len(cut).unwrap();
            let found = open(&dir, 0);
            let whole = ends.iter().filter(|end| **end <= cut).count() as u64;
            assert_eq!(numbers(&found), (1..=whole).collect::<Vec<_>>(), "cut at {cut}");
        }
    }

    #[test]
    fn a_byte_that_changed_anywhere_ends_what_is_found_and_none_of_the_rest_comes_back_later() {
        let dir = TempDir::new().unwrap();
        let journal = two_regions(&dir);
        for region in 0..2_u64 {
            let begin = start(usize::try_from(region).unwrap());
            let length: usize = (1..5).map(|number| HEADER + payload(region * 4 + number).len()).sum();
            let mut whole = vec![0; length];
            journal.file.read_exact_at(&mut whole, begin).unwrap();
            for (at, &byte) in whole.iter().enumerate() {
                journal.file.write_all_at(&[byte ^ 0x10], begin + at as u64).unwrap();
                let intact = region * 4 + intact_before(region * 4, at);
                let kept = numbers(&open(&dir, 0));
                assert_eq!(kept, (1..=intact).collect::<Vec<_>>(), "byte {at} of region {region}");
                journal.file.write_all_at(&[byte], begin + at as u64).unwrap();
            }
        }
        // One that is gone on with as if the file had got what was found.
        journal.file.write_all_at(b"?", start(0) + 40).unwrap();
        let mut found = open(&dir, 0);
        assert!(found.torn);
        let kept = found.records.len() as u64;
        found.journal.begin_anew().unwrap();
        append_numbered(&mut found.journal, kept + 1..kept + 3);
        let found = open(&dir, kept);
        assert_eq!((numbers(&found), found.torn), (vec![kept + 1, kept + 2], false));
    }

    #[test]
    fn what_the_catalogs_file_has_is_passed_over_and_what_it_lacks_is_looked_into() {
        let dir = TempDir::new().unwrap();
        let mut journal = Journal::create(dir.path(), 0).unwrap();
        // Longer than what is read at once, and with long records among them.
        let long = vec![b'l'; 3 * BLOCK / 2];
        let mut begins = Vec::new();
        for number in 1..=12 {
            begins.push(journal.end);
            let bytes = if number % 4 == 0 { long.clone() } else { payload(number) };
            assert_eq!(append(&mut journal, &bytes), number);
        }
        let spoil = |number: usize| {
            let mut byte = [0];
            let at = begins[number - 1] + HEADER as u64 + 3;
            journal.file.read_exact_at(&mut byte, at).unwrap();
            journal.file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        };
        for number in [1, 4, 7] {
            spoil(number);
        }
        let found = open(&dir, 8);
        let numbers: Vec<u64> = found.records.iter().map(|(number, _)| *number).collect();
        assert_eq!((numbers, found.torn), (vec![9, 10, 11, 12], false));
        assert_eq!((found.records[0].1.clone(), found.records[3].1.len()), (payload(9), long.len()));
        spoil(11);
        let found = open(&dir, 8);
        assert_eq!((found.records.len(), found.torn), (2, true));
    }

    /// How many records after the number `before` end at or before `at`.
    fn intact_before(before: u64, at: usize) -> u64 {
        let mut end = 0;
        let ends = (before + 1..before + 5).map(|number| {
            end += HEADER + payload(number).len();
            end
        });
        ends.filter(|end| *end <= at).count() as u64
    }

    #[test]
    fn a_record_that_does_not_fit_is_not_begun() {
        let dir = TempDir::new().unwrap();
        let mut journal = Journal::create(dir.path(), 0).unwrap();
        let half = vec![1; usize::try_from(REGION / 2).unwrap()];
        assert_eq!(append(&mut journal, &half), 1);
        let write = |into: &mut Vec<u8>| {
            into.extend_from_slice(&half);
            Ok(())
        };
        assert_eq!(journal.append(write).unwrap(), Appended::NoRoom(half.len()));
        assert!(Journal::can_hold(half.len()) && !Journal::can_hold(2 * half.len()));
        assert!(journal.switch(0).unwrap());
        assert_eq!(journal.append(write).unwrap(), Appended::Record(2));
        assert_eq!(open(&dir, 1).records.len(), 1);
    }
}
