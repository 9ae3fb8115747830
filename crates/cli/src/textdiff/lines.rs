//! Texts as numbered lines.

use std::collections::HashMap;

/// Two texts whose equal lines have equal numbers.
#[derive(Debug)]
pub(super) struct Lines<'a> {
    pub(super) old_text: Vec<&'a [u8]>,
    pub(super) new_text: Vec<&'a [u8]>,
    pub(super) old: Vec<u32>,
    pub(super) new: Vec<u32>,
    /// How many different lines there are.
    pub(super) distinct: usize,
}

impl<'a> Lines<'a> {
    pub(super) fn new(old: &'a [u8], new: &'a [u8]) -> Self {
        let split = |text: &'a [u8]| text.split_inclusive(|&byte| byte == b'\n').collect::<Vec<_>>();
        let (old_text, new_text) = (split(old), split(new));
        let mut numbers: HashMap<&[u8], u32> = HashMap::with_capacity(old_text.len());
        let mut number = |line: &&'a [u8]| {
            // A text has fewer lines than bytes, and its bytes are few enough to be in memory twice.
            let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
            *numbers.entry(line).or_insert(next)
        };
        let old = old_text.iter().map(&mut number).collect();
        let new = new_text.iter().map(&mut number).collect();
        let distinct = numbers.len();
        Self { old_text, new_text, old, new, distinct }
    }
}
