//! Myers' O(ND) difference algorithm in linear space, with the short cuts that git takes: lines that cannot match are
//! left out first, and a search that has become expensive is cut short.

use super::Changed;
use super::lines::Lines;

/// A line that occurs at least this often in the other text says little, at most.
const COMMON_LIMIT: usize = 1024;
/// How far around a common line its neighbours are looked at.
const WINDOW: usize = 100;
/// How many equal lines in a row are a reason to stop a search there.
const GOOD_SNAKE: isize = 20;
/// The number of edits after which good rows of equal lines are looked for.
const HEURISTIC_COST: isize = 256;
/// What a path must have gained for each edit to be good.
const GAIN: isize = 4;
/// The number of edits, at least, after which a search ends at the best path so far.
const LEAST_MAX_COST: isize = 256;

/// Which lines of either text are not matched by one of the other.
pub(super) fn changed(lines: &Lines<'_>) -> Changed {
    let (old, new) = (&lines.old, &lines.new);
    let mut changed = Changed { old: vec![false; old.len()], new: vec![false; new.len()] };
    let prefix = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let shorter = old.len().min(new.len()) - prefix;
    let suffix = old.iter().rev().zip(new.iter().rev()).take(shorter).take_while(|(a, b)| a == b).count();
    let (in_old, in_new) = (count(old, lines.distinct), count(new, lines.distinct));
    let old_kept = keep(old, prefix, suffix, &in_new, &mut changed.old);
    let new_kept = keep(new, prefix, suffix, &in_old, &mut changed.new);
    search(&old_kept, &new_kept, &mut changed);
    changed
}

fn count(lines: &[u32], distinct: usize) -> Vec<usize> {
    let mut counts = vec![0; distinct];
    for &line in lines {
        counts[line as usize] += 1;
    }
    counts
}

/// The lines between prefix and suffix that take part in the search, with their positions; the others are marked.
#[derive(Debug, Default)]
struct Kept {
    lines: Vec<u32>,
    positions: Vec<usize>,
}

/// What the other text says of a line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Match {
    None,
    Some,
    /// So many that it says nothing.
    Many,
}

fn keep(lines: &[u32], prefix: usize, suffix: usize, in_other: &[usize], changed: &mut [bool]) -> Kept {
    let limit = rough_root(lines.len()).min(COMMON_LIMIT);
    let range = prefix..lines.len() - suffix;
    let matches: Vec<Match> = lines[range.clone()]
        .iter()
        .map(|&line| match in_other[line as usize] {
            0 => Match::None,
            count if count >= limit => Match::Many,
            _ => Match::Some,
        })
        .collect();
    let mut kept = Kept::default();
    for (at, position) in range.enumerate() {
        let take = match matches[at] {
            Match::Some => true,
            Match::None => false,
            Match::Many => !is_surrounded(&matches, at),
        };
        if take {
            kept.lines.push(lines[position]);
            kept.positions.push(position);
        } else {
            changed[position] = true;
        }
    }
    kept
}

/// Whether a common line stands among so many that match nothing that it had better not match either.
fn is_surrounded(matches: &[Match], at: usize) -> bool {
    let look = |neighbours: &mut dyn Iterator<Item = &Match>| {
        let (mut none, mut many) = (0, 1);
        for found in neighbours.take(WINDOW) {
            match found {
                Match::None => none += 1,
                Match::Many => many += 1,
                Match::Some => break,
            }
        }
        (none, many)
    };
    let (none_before, many_before) = look(&mut matches[..at].iter().rev());
    let (none_after, many_after) = look(&mut matches[at + 1..].iter());
    none_before > 0 && none_after > 0 && none_before + none_after > 3 * (many_before + many_after)
}

/// A power of two near the square root.
fn rough_root(mut number: usize) -> usize {
    let mut root = 1;
    while number > 0 {
        root <<= 1;
        number >>= 2;
    }
    root
}

/// A part of both texts still to be matched: from and to, exclusive, of either.
#[derive(Debug, Clone, Copy)]
struct Region {
    old: (isize, isize),
    new: (isize, isize),
    /// The best match is wanted, whatever it costs.
    exact: bool,
}

/// Where a region is cut in two.
#[derive(Debug, Clone, Copy)]
struct Cut {
    old: isize,
    new: isize,
    exact_before: bool,
    exact_after: bool,
}

fn search(old: &Kept, new: &Kept, changed: &mut Changed) {
    let mut searcher = Searcher::new(&old.lines, &new.lines);
    let mut regions =
        vec![Region { old: (0, signed(old.lines.len())), new: (0, signed(new.lines.len())), exact: false }];
    while let Some(region) = regions.pop() {
        let region = searcher.shrink(region);
        if region.old.0 == region.old.1 || region.new.0 == region.new.1 {
            mark(&old.positions, region.old, &mut changed.old);
            mark(&new.positions, region.new, &mut changed.new);
            continue;
        }
        let cut = searcher.cut(region);
        regions.push(Region {
            old: (cut.old, region.old.1),
            new: (cut.new, region.new.1),
            exact: cut.exact_after,
        });
        regions.push(Region {
            old: (region.old.0, cut.old),
            new: (region.new.0, cut.new),
            exact: cut.exact_before,
        });
    }
}

fn mark(positions: &[usize], range: (isize, isize), changed: &mut [bool]) {
    for &position in &positions[unsigned(range.0)..unsigned(range.1)] {
        changed[position] = true;
    }
}

/// The furthest a path has come on each diagonal (old position minus new position), from either end.
struct Searcher<'a> {
    old: &'a [u32],
    new: &'a [u32],
    forward: Vec<isize>,
    backward: Vec<isize>,
    /// Where diagonal 0 is in these.
    zero: isize,
    max_cost: isize,
}

/// The diagonals that one end's paths have reached.
#[derive(Debug, Clone, Copy)]
struct Reach {
    low: isize,
    high: isize,
}

impl Reach {
    fn contains(self, diagonal: isize) -> bool {
        self.low <= diagonal && diagonal <= self.high
    }

    /// From the highest down, every other one.
    fn down(self) -> impl Iterator<Item = isize> {
        (0..=(self.high - self.low) / 2).map(move |step| self.high - 2 * step)
    }

    /// One diagonal more on either side, or one less where the region ends. Tells the diagonals just beyond a new end,
    /// where nobody has been.
    fn widen(&mut self, lowest: isize, highest: isize) -> impl Iterator<Item = isize> + use<> {
        let (lower, higher) = (self.low > lowest, self.high < highest);
        self.low += if lower { -1 } else { 1 };
        self.high += if higher { 1 } else { -1 };
        let beyond = [lower.then_some(self.low - 1), higher.then_some(self.high + 1)];
        beyond.into_iter().flatten()
    }
}

impl<'a> Searcher<'a> {
    fn new(old: &'a [u32], new: &'a [u32]) -> Self {
        let diagonals = old.len() + new.len() + 3;
        Self {
            old,
            new,
            forward: vec![0; diagonals],
            backward: vec![0; diagonals],
            zero: signed(new.len()) + 1,
            max_cost: signed(rough_root(diagonals)).max(LEAST_MAX_COST),
        }
    }

    fn is_match(&self, old: isize, new: isize) -> bool {
        self.old[unsigned(old)] == self.new[unsigned(new)]
    }

    /// Without what matches at both ends.
    fn shrink(&self, mut region: Region) -> Region {
        while region.old.0 < region.old.1
            && region.new.0 < region.new.1
            && self.is_match(region.old.0, region.new.0)
        {
            region.old.0 += 1;
            region.new.0 += 1;
        }
        while region.old.0 < region.old.1
            && region.new.0 < region.new.1
            && self.is_match(region.old.1 - 1, region.new.1 - 1)
        {
            region.old.1 -= 1;
            region.new.1 -= 1;
        }
        region
    }

    fn forward(&mut self, diagonal: isize) -> &mut isize {
        &mut self.forward[unsigned(self.zero + diagonal)]
    }

    fn backward(&mut self, diagonal: isize) -> &mut isize {
        &mut self.backward[unsigned(self.zero + diagonal)]
    }

    /// Where the shortest edit, or what must do for it, passes the middle.
    fn cut(&mut self, region: Region) -> Cut {
        let lowest = region.old.0 - region.new.1;
        let highest = region.old.1 - region.new.0;
        let from = region.old.0 - region.new.0;
        let to = region.old.1 - region.new.1;
        let meets_forward = (from - to) % 2 != 0;
        let mut ahead = Reach { low: from, high: from };
        let mut behind = Reach { low: to, high: to };
        *self.forward(from) = region.old.0;
        *self.backward(to) = region.old.1;
        let mut cost = 0;
        loop {
            cost += 1;
            for beyond in ahead.widen(lowest, highest) {
                *self.forward(beyond) = -1;
            }
            let mut good = false;
            for diagonal in ahead.down() {
                let (old, is_good) = self.step_forward(region, diagonal);
                good |= is_good;
                if meets_forward && behind.contains(diagonal) && *self.backward(diagonal) <= old {
                    return Cut { old, new: old - diagonal, exact_before: true, exact_after: true };
                }
            }
            for beyond in behind.widen(lowest, highest) {
                *self.backward(beyond) = isize::MAX;
            }
            for diagonal in behind.down() {
                let (old, is_good) = self.step_backward(region, diagonal);
                good |= is_good;
                if !meets_forward && ahead.contains(diagonal) && old <= *self.forward(diagonal) {
                    return Cut { old, new: old - diagonal, exact_before: true, exact_after: true };
                }
            }
            if region.exact {
                continue;
            }
            if good && cost > HEURISTIC_COST {
                if let Some(cut) = self.good_forward(region, ahead, from, cost) {
                    return cut;
                }
                if let Some(cut) = self.good_backward(region, behind, to, cost) {
                    return cut;
                }
            }
            if cost >= self.max_cost {
                return self.furthest(region, ahead, behind);
            }
        }
    }

    /// One edit further on a diagonal, then along all that matches; tells whether that was much.
    fn step_forward(&mut self, region: Region, diagonal: isize) -> (isize, bool) {
        let (below, above) = (*self.forward(diagonal - 1), *self.forward(diagonal + 1));
        let begin = if below >= above { below + 1 } else { above };
        let mut old = begin;
        while old < region.old.1 && old - diagonal < region.new.1 && self.is_match(old, old - diagonal) {
            old += 1;
        }
        *self.forward(diagonal) = old;
        (old, old - begin > GOOD_SNAKE)
    }

    fn step_backward(&mut self, region: Region, diagonal: isize) -> (isize, bool) {
        let (below, above) = (*self.backward(diagonal - 1), *self.backward(diagonal + 1));
        let begin = if below < above { below } else { above - 1 };
        let mut old = begin;
        while old > region.old.0
            && old - diagonal > region.new.0
            && self.is_match(old - 1, old - diagonal - 1)
        {
            old -= 1;
        }
        *self.backward(diagonal) = old;
        (old, begin - old > GOOD_SNAKE)
    }

    /// The end of a path from the start that has gained much and ends in a long match.
    fn good_forward(&mut self, region: Region, reach: Reach, from: isize, cost: isize) -> Option<Cut> {
        let (mut best, mut cut) = (GAIN * cost, None);
        for diagonal in reach.down() {
            let old = *self.forward(diagonal);
            let new = old - diagonal;
            let gain = (old - region.old.0) + (new - region.new.0) - (diagonal - from).abs();
            let inside = region.old.0 + GOOD_SNAKE <= old
                && old < region.old.1
                && region.new.0 + GOOD_SNAKE <= new
                && new < region.new.1;
            if gain > best && inside && (1..=GOOD_SNAKE).all(|back| self.is_match(old - back, new - back)) {
                best = gain;
                cut = Some(Cut { old, new, exact_before: true, exact_after: false });
            }
        }
        cut
    }

    fn good_backward(&mut self, region: Region, reach: Reach, to: isize, cost: isize) -> Option<Cut> {
        let (mut best, mut cut) = (GAIN * cost, None);
        for diagonal in reach.down() {
            let old = *self.backward(diagonal);
            let new = old - diagonal;
            let gain = (region.old.1 - old) + (region.new.1 - new) - (diagonal - to).abs();
            let inside = region.old.0 < old
                && old <= region.old.1 - GOOD_SNAKE
                && region.new.0 < new
                && new <= region.new.1 - GOOD_SNAKE;
            if gain > best && inside && (0..GOOD_SNAKE).all(|on| self.is_match(old + on, new + on)) {
                best = gain;
                cut = Some(Cut { old, new, exact_before: false, exact_after: true });
            }
        }
        cut
    }

    /// The end of the path that has come furthest, from whichever side.
    fn furthest(&mut self, region: Region, ahead: Reach, behind: Reach) -> Cut {
        let (mut ahead_sum, mut ahead_old) = (-1, -1);
        for diagonal in ahead.down() {
            let mut old = (*self.forward(diagonal)).min(region.old.1);
            let mut new = old - diagonal;
            if region.new.1 < new {
                (old, new) = (region.new.1 + diagonal, region.new.1);
            }
            if ahead_sum < old + new {
                (ahead_sum, ahead_old) = (old + new, old);
            }
        }
        let (mut behind_sum, mut behind_old) = (isize::MAX, isize::MAX);
        for diagonal in behind.down() {
            let mut old = (*self.backward(diagonal)).max(region.old.0);
            let mut new = old - diagonal;
            if new < region.new.0 {
                (old, new) = (region.new.0 + diagonal, region.new.0);
            }
            if old + new < behind_sum {
                (behind_sum, behind_old) = (old + new, old);
            }
        }
        let left = region.old.1 + region.new.1 - behind_sum;
        if left < ahead_sum - (region.old.0 + region.new.0) {
            Cut { old: ahead_old, new: ahead_sum - ahead_old, exact_before: true, exact_after: false }
        } else {
            Cut { old: behind_old, new: behind_sum - behind_old, exact_before: false, exact_after: true }
        }
    }
}

/// Positions are those of lines in memory, far below the largest `isize`.
fn signed(position: usize) -> isize {
    position.cast_signed()
}

/// Positions never fall below zero: callers stay inside their region, and diagonals have `zero` added.
fn unsigned(position: isize) -> usize {
    position.cast_unsigned()
}
