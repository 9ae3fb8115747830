//! What threads and their snapshots need, and where in them something is wrong.

use super::objects::{Found, Objects};
use super::{MAX_PLACES, Problem, needs};
use crate::beneath::join;
use crate::{Content, ObjectId, ObjectKind, Store, Tree};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Everything that is followed from threads.
pub(super) struct Reach<'a> {
    store: &'a Store,
    objects: &'a Objects,
    /// Trees that were followed, and whether everything beneath each is sound.
    trees: HashMap<ObjectId, bool>,
    wrong: BTreeMap<(ObjectKind, ObjectId), Wrong>,
}

/// A needed object that is damaged or missing.
struct Wrong {
    problem: String,
    places: Vec<String>,
    more: usize,
}

/// A tree being followed.
struct Frame {
    id: ObjectId,
    tree: Arc<Tree>,
    next: usize,
    sound: bool,
}

impl<'a> Reach<'a> {
    pub(super) fn new(store: &'a Store, objects: &'a Objects) -> Self {
        Self { store, objects, trees: HashMap::new(), wrong: BTreeMap::new() }
    }

    /// Follows the snapshot of a thread and all those before it.
    pub(super) fn follow(&mut self, thread: &str, snapshot: ObjectId) {
        let mut unread = vec![(snapshot, thread.to_owned())];
        let mut seen = HashSet::new();
        while let Some((id, place)) = unread.pop() {
            if !seen.insert(id) {
                continue;
            }
            if self.problem(ObjectKind::Snapshot, &id, None).is_some() {
                self.note(ObjectKind::Snapshot, id, None, &place);
                continue;
            }
            let Ok(snapshot) = self.store.snapshot(&id) else { continue };
            if let Content::Directory { tree, .. } = snapshot.root.content {
                // What a later thread shares with an earlier one is walked again only to name what is wrong in it.
                let sound = self.follow_tree(tree);
                if !sound {
                    self.name(tree, &place);
                }
            }
            let parent = |parent: ObjectId| (parent, format!("snapshot {parent}, from which {thread} comes"));
            unread.extend(snapshot.parents.into_iter().map(parent));
        }
    }

    /// Follows a tree; tells whether everything beneath it is sound.
    fn follow_tree(&mut self, root: ObjectId) -> bool {
        if let Some(&sound) = self.trees.get(&root) {
            return sound;
        }
        let Some(frame) = self.enter(root) else { return false };
        let mut stack = vec![frame];
        while let Some(frame) = stack.last_mut() {
            let Some((_, entry)) = frame.tree.get(frame.next) else {
                let (id, sound) = (frame.id, frame.sound);
                self.trees.insert(id, sound);
                stack.pop();
                if let Some(above) = stack.last_mut() {
                    above.sound &= sound;
                }
                continue;
            };
            frame.next += 1;
            if let Content::Directory { tree, .. } = entry.content {
                match self.trees.get(&tree) {
                    Some(&sound) => frame.sound &= sound,
                    None => match self.enter(tree) {
                        Some(below) => stack.push(below),
                        None => frame.sound = false,
                    },
                }
            }
            let needed = needs(&entry.content);
            let wrong = needed.iter().any(|(kind, id, size)| self.problem(*kind, id, *size).is_some());
            if wrong && let Some(frame) = stack.last_mut() {
                frame.sound = false;
            }
        }
        self.trees.get(&root).copied().unwrap_or(false)
    }

    /// Begins with a tree; `None` if it is damaged or missing.
    fn enter(&mut self, id: ObjectId) -> Option<Frame> {
        let sound = self.problem(ObjectKind::Tree, &id, None).is_none();
        match self.store.tree(&id) {
            Ok(tree) if sound => Some(Frame { id, tree, next: 0, sound: true }),
            _ => {
                self.trees.insert(id, false);
                None
            }
        }
    }

    /// Names where in `place` something is wrong, beneath the tree `root`, which is not sound.
    fn name(&mut self, root: ObjectId, place: &str) {
        let mut unread = vec![(root, Vec::new())];
        while let Some((id, path)) = unread.pop() {
            let at = |path: &[u8]| format!("{place} at {}", String::from_utf8_lossy(path));
            if self.problem(ObjectKind::Tree, &id, None).is_some() {
                let where_it_is = if path.is_empty() { place.to_owned() } else { at(&path) };
                self.note(ObjectKind::Tree, id, None, &where_it_is);
                continue;
            }
            let Ok(tree) = self.store.tree(&id) else { continue };
            for (name, entry) in tree.iter() {
                let path = join(&path, name);
                for (kind, id, size) in needs(&entry.content) {
                    if self.problem(kind, &id, size).is_some() {
                        self.note(kind, id, size, &at(&path));
                    }
                }
                if let Content::Directory { tree, .. } = entry.content
                    && !self.trees.get(&tree).copied().unwrap_or(false)
                {
                    unread.push((tree, path));
                }
            }
        }
    }

    /// What is wrong with an object that something needs.
    fn problem(&self, kind: ObjectKind, id: &ObjectId, size: Option<u64>) -> Option<String> {
        match (self.objects.get(kind, id), size) {
            (None, _) => Some("it is missing".to_owned()),
            (Some(Found::Damaged(problem)), _) => Some(problem.clone()),
            (Some(Found::Sound(found)), Some(size)) if *found != size => {
                Some(format!("it has {found} bytes, a file that needs it has {size}"))
            }
            (Some(Found::Sound(_)), _) => None,
        }
    }

    fn note(&mut self, kind: ObjectKind, id: ObjectId, size: Option<u64>, place: &str) {
        let problem = self.problem(kind, &id, size).unwrap_or_default();
        let wrong =
            self.wrong.entry((kind, id)).or_insert_with(|| Wrong { problem, places: Vec::new(), more: 0 });
        if wrong.places.len() < MAX_PLACES {
            wrong.places.push(place.to_owned());
        } else {
            wrong.more += 1;
        }
    }

    /// Whether the object is among the problems.
    pub(super) fn has_named(&self, kind: ObjectKind, id: &ObjectId) -> bool {
        self.wrong.contains_key(&(kind, *id))
    }

    pub(super) fn problems(&self) -> Vec<Problem> {
        let problem = |((kind, id), wrong): (&(ObjectKind, ObjectId), &Wrong)| {
            let mut affects = wrong.places.clone();
            if wrong.more > 0 {
                affects.push(format!("{} places more", wrong.more));
            }
            Problem { object: format!("{kind} {id}"), problem: wrong.problem.clone(), affects }
        };
        self.wrong.iter().map(problem).collect()
    }
}
