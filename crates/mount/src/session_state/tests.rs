use super::*;

const RW: OpenFlags = OpenFlags { read: true, write: true, exclusive: false };

fn header() -> Header {
    Header {
        epoch: 0x0123_4567_89ab_cdef,
        identity: MountIdentity {
            mount_id: 42,
            unique_id: Some(1 << 31),
            device: Device { major: 0, minor: 77 },
            path: "/w/a thread".into(),
        },
        init: InitExchange { request: vec![1; 104], reply: vec![2; 80] },
    }
}

fn open(number: u64) -> (Handle, Opened) {
    let ino = Ino(1000 + number);
    let opened = match number % 3 {
        0 => Opened::Directory(ino),
        1 => Opened::File(ino, RW),
        _ => Opened::Passed(ino, RW),
    };
    (Handle(2 * number + 2), opened)
}

/// A state with 40 handles of which every fourth was released again.
fn written() -> (SessionState, Vec<(Handle, Opened)>) {
    let state = SessionState::create().unwrap();
    state.begin(&header()).unwrap();
    let all: Vec<_> = (0..40).map(open).collect();
    for (handle, opened) in &all {
        state.opened(*handle, *opened).unwrap();
    }
    let (gone, left): (Vec<_>, Vec<_>) = all.into_iter().partition(|(handle, _)| handle.0 % 8 == 2);
    for (handle, _) in gone {
        state.released(handle);
        state.released(handle);
    }
    (state, left)
}

fn content(state: &SessionState) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(state.memory.metadata().unwrap().len()).unwrap()];
    state.memory.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn resume(bytes: &[u8]) -> Result<Resumed, SessionStateError> {
    let copy = SessionState::create().unwrap();
    copy.memory.write_all_at(bytes, 0).unwrap();
    SessionState::resume(copy.memory)
}

#[test]
fn a_successor_reads_what_was_open() {
    let (state, mut left) = written();
    let Resumed { state: resumed, header: found, open: mut open_handles, .. } =
        resume(&content(&state)).unwrap();
    assert_eq!(found, header());
    open_handles.sort_by_key(|(handle, _)| *handle);
    left.sort_by_key(|(handle, _)| *handle);
    assert_eq!(open_handles, left);
    // The same OPEN again is the same handle; a new one takes a slot that was emptied.
    resumed.opened(left[0].0, left[0].1).unwrap();
    resumed.opened(Handle(1_000_000), Opened::Directory(Ino(5))).unwrap();
    let again = resume(&content(&resumed)).unwrap().open;
    assert_eq!(again.len(), left.len() + 1);
    assert_eq!(resumed.slots().end, state.slots().end);
}

#[test]
fn a_tear_at_any_byte_costs_at_most_the_handle_it_tears() {
    let (state, left) = written();
    let whole = content(&state);
    let start = usize::try_from(SLOTS).unwrap();
    for length in start..whole.len() {
        let Resumed { header: found, open: open_handles, .. } = resume(&whole[..length]).unwrap();
        assert_eq!(found, header());
        assert!(open_handles.iter().all(|open| left.contains(open)), "cut at {length}");
        let mut cut = whole[start..length].to_vec();
        cut.resize(cut.len().next_multiple_of(SLOT), 0);
        let found = cut.chunks(SLOT).filter_map(decode_slot).count();
        assert_eq!(open_handles.len(), found, "cut at {length}");
    }
    for length in 0..header().encode().len() {
        assert!(resume(&whole[..length]).is_err(), "cut at {length}");
    }
}

#[test]
fn a_flip_of_any_bit_costs_at_most_the_handle_it_hits() {
    let (state, left) = written();
    let mut bytes = content(&state);
    let start = usize::try_from(SLOTS).unwrap();
    for at in start..bytes.len() {
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            let open_handles = resume(&bytes).unwrap().open;
            assert!(open_handles.iter().all(|open| left.contains(open)), "bit {bit} of {at}");
            assert!(open_handles.len() >= left.len() - 1, "bit {bit} of {at}");
            bytes[at] ^= 1 << bit;
        }
    }
    for at in 0..header().encode().len() {
        bytes[at] ^= 1;
        assert!(resume(&bytes).is_err(), "a flip at {at}");
        bytes[at] ^= 1;
    }
}

/// Everything that a successor does with the file, whatever it holds.
fn use_all(bytes: &[u8]) {
    let Ok(Resumed { state, open, .. }) = resume(bytes) else { return };
    let number = state.taken_over().unwrap();
    state.fruitless(number).unwrap();
    state.poison().unwrap();
    state.answers();
    for (handle, _) in open.iter().take(100) {
        state.released(*handle);
    }
    for number in 0..50 {
        let (handle, opened) = open_as(number);
        state.opened(handle, opened).unwrap();
    }
    // What was damaged before is not worse afterwards: all that this worker opened is read again.
    let again = resume(&content(&state)).unwrap().open;
    assert!((0..50).map(open_as).all(|(handle, _)| again.iter().any(|(found, _)| *found == handle)));
}

fn open_as(number: u64) -> (Handle, Opened) {
    let (handle, opened) = open(number);
    (Handle(handle.0 + (1 << 40)), opened)
}

#[test]
fn what_is_between_the_header_and_the_handles_may_be_cut_and_flipped_anywhere() {
    let (state, left) = written();
    let mut bytes = content(&state);
    let (from, to) = (header().encode().len(), usize::try_from(SLOTS).unwrap());
    for length in (from..to).step_by(61).chain(to - 64..to) {
        let Resumed { state, header: found, open, .. } = resume(&bytes[..length]).unwrap();
        assert_eq!((found, open.len()), (header(), 0), "cut at {length}");
        state.poison().unwrap();
        assert!(state.taken_over().unwrap() >= 1);
    }
    let deaths = usize::try_from(DEATHS).unwrap();
    for at in (from..deaths).step_by(997).chain(deaths..to) {
        bytes[at] ^= 0xff;
        let Resumed { header: found, open, .. } = resume(&bytes).unwrap();
        assert_eq!((found, open.len()), (header(), left.len()), "a flip at {at}");
        if at % 29 == 0 || at >= to - 24 {
            use_all(&bytes);
        }
        bytes[at] ^= 0xff;
    }
}

#[test]
fn hostile_contents_are_refused_or_used_and_never_a_panic() {
    let (state, _) = written();
    let whole = content(&state);
    let mut seed = 7_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for round in 0..300 {
        let mut bytes = whole.clone();
        // Slots that are in order and say anything, and each handle several times.
        for _ in 0..40 {
            let at = position(u32::try_from(random() % 60).unwrap());
            let (handle, ino) = (Handle([random(), 0, u64::MAX, 4][round % 4]), Ino(random()));
            let opened = if random() % 2 == 0 { Opened::Directory(ino) } else { Opened::File(ino, RW) };
            let mut slot = encode_slot(handle, opened);
            slot[16..24].copy_from_slice(&random().to_le_bytes());
            let sum = checksum(&slot[..24]);
            slot[24..].copy_from_slice(&sum.to_le_bytes());
            let at = usize::try_from(at).unwrap();
            bytes.resize(bytes.len().max(at + SLOT), 0);
            bytes[at..at + SLOT].copy_from_slice(&slot);
        }
        // A header whose checksum is right, with lengths that are not.
        if round % 3 == 0 {
            let length = header().encode().len();
            let at = 24 + usize::try_from(random()).unwrap() % (length - 24);
            bytes[at] = random().to_le_bytes()[0];
            let sum = checksum(&bytes[24..length]);
            bytes[16..24].copy_from_slice(&sum.to_le_bytes());
        }
        bytes.truncate(usize::try_from(random()).unwrap() % bytes.len().max(1) + 1);
        use_all(&bytes);
    }
}

#[test]
fn a_state_that_is_far_too_long_is_read_up_to_the_most_handles() {
    let (state, left) = written();
    state.memory.set_len(1 << 44).unwrap();
    let found = SessionState::resume(state.memory.try_clone().unwrap()).unwrap();
    assert_eq!(found.open.len(), left.len());
    let (handle, opened) = open_as(1);
    found.state.opened(handle, opened).unwrap();
}

#[test]
fn a_successor_knows_how_many_workers_before_it_answered_nothing() {
    let state = SessionState::create().unwrap();
    state.begin(&header()).unwrap();
    state.answers();
    for (number, answers) in [(1, true), (2, false), (3, false), (4, true), (5, false)] {
        let successor = resume(&content(&state)).unwrap().state;
        assert_eq!(state.taken_over().unwrap(), number);
        assert_eq!(successor.taken_over().unwrap(), number);
        let before = successor.fruitless(number).unwrap();
        assert_eq!(before, [0, 0, 1, 2, 0][usize::try_from(number).unwrap() - 1], "before number {number}");
        if answers {
            successor.answers();
            let bytes = content(&successor);
            state.memory.write_all_at(&bytes, 0).unwrap();
        }
    }
}

#[test]
fn what_became_of_a_passed_file_is_known_to_a_successor() {
    let (state, left) = written();
    let files = [Ino(1), Ino(2), Ino(3), Ino(4)];
    for (ino, id) in files.iter().zip(7..) {
        state.note_backing(*ino, Backing::Open(id)).unwrap();
    }
    state.note_backing(files[1], Backing::Closing(8)).unwrap();
    state.note_backing(files[2], Backing::Closing(9)).unwrap();
    state.note_backing(files[2], Backing::Left).unwrap();
    state.forget_backing(files[3]);
    let Resumed { state: resumed, open, mut backings, .. } = resume(&content(&state)).unwrap();
    backings.sort_by_key(|(ino, _)| *ino);
    let expected = [Backing::Open(7), Backing::Closing(8), Backing::Left];
    assert_eq!(backings, files.into_iter().zip(expected).collect::<Vec<_>>());
    assert_eq!(open.len(), left.len());
    // Its slot is its own; a new one takes the emptied one.
    resumed.note_backing(files[0], Backing::Left).unwrap();
    resumed.note_backing(Ino(5), Backing::Open(11)).unwrap();
    let again = resume(&content(&resumed)).unwrap();
    assert_eq!((again.backings.len(), resumed.slots().end), (4, state.slots().end));
}

#[test]
fn opening_and_closing_for_ever_needs_no_more_room() {
    let state = SessionState::create().unwrap();
    state.begin(&header()).unwrap();
    for round in 0..10_000 {
        let (handle, opened) = open(round);
        state.opened(handle, opened).unwrap();
        state.released(handle);
    }
    assert_eq!(state.slots().end, 1);
}

#[test]
fn many_handles_lie_in_several_tables_and_each_in_its_own_slot() {
    let state = SessionState::create().unwrap();
    state.begin(&header()).unwrap();
    let all: Vec<_> = (0..=u64::from(first_slot(5))).map(open).collect();
    for (handle, opened) in &all {
        state.opened(*handle, *opened).unwrap();
    }
    assert_eq!(state.slots().tables.len(), 6);
    let Resumed { state: resumed, open, .. } = resume(&content(&state)).unwrap();
    assert_eq!(open, all);
    for (handle, _) in &all {
        resumed.released(*handle);
    }
    assert!(content(&resumed)[usize::try_from(SLOTS).unwrap()..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_file_that_can_be_made_shorter_is_refused() {
    let (state, _) = written();
    let other = memfd_create("other", MemfdFlags::CLOEXEC).unwrap();
    let other = File::from(other);
    other.write_all_at(&content(&state), 0).unwrap();
    assert!(matches!(SessionState::resume(other), Err(SessionStateError::Damaged(_))));
}
