//! What a thread or a snapshot must have.

use super::reference::{Body, Id, Model, ROOT};
use super::support::{Bench, list, read};
use selvedge_store::Ino;
use selvedge_view::View;
use std::collections::HashMap;

/// What a thread or a snapshot must have.
#[derive(Clone)]
pub struct Known {
    pub model: Model,
    /// The number each node of the model must keep for ever.
    pub numbers: HashMap<Id, Ino>,
}

impl Known {
    /// Fails unless the view shows what the model has; tells the numbers of nodes that had none yet.
    pub fn compare(&self, bench: &Bench, view: &View) -> Vec<(Id, Ino)> {
        let mut new = Vec::new();
        let mut queue = vec![(ROOT, view.root())];
        while let Some((dir, dir_ino)) = queue.pop() {
            self.compare_node(bench, view, dir, dir_ino);
            let listed = list(bench, view, dir_ino);
            let expected: Vec<_> = self.model.dir(dir).clone().into_iter().collect();
            let names: Vec<_> = listed.iter().map(|(name, _)| name.clone()).collect();
            assert_eq!(names, expected.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>());
            for ((name, ino), (_, id)) in listed.into_iter().zip(expected) {
                let attr = view.lookup(dir_ino, &name).unwrap();
                assert_eq!(attr.ino, ino, "listing and lookup disagree on {name:?}");
                match self.numbers.get(&id) {
                    Some(known) => assert_eq!(*known, ino, "{name:?} changed its number"),
                    None => new.push((id, ino)),
                }
                if self.model.is_dir(id) {
                    queue.push((id, ino));
                } else {
                    self.compare_node(bench, view, id, ino);
                }
            }
        }
        new
    }

    fn compare_node(&self, bench: &Bench, view: &View, id: Id, ino: Ino) {
        let node = &self.model.nodes[id];
        let attr = view.getattr(ino).unwrap();
        let expected = (node.mode, node.uid, node.gid, node.nlink);
        assert_eq!((attr.mode, attr.uid, attr.gid, attr.nlink), expected, "attributes of {id}");
        match &node.body {
            Body::File(bytes) => {
                assert_eq!(attr.size, bytes.len() as u64);
                assert!(&read(bench, view, ino) == bytes, "content of {id}");
            }
            Body::Link(target) => assert_eq!(&view.readlink(ino).unwrap(), target),
            Body::Dir(_) => {}
        }
        let names = view.listxattr(ino).unwrap();
        let names: Vec<&[u8]> = names.split(|&byte| byte == 0).filter(|name| !name.is_empty()).collect();
        assert_eq!(names, node.xattrs.keys().map(Vec::as_slice).collect::<Vec<_>>());
        for (name, value) in &node.xattrs {
            assert_eq!(&view.getxattr(ino, name).unwrap(), value);
        }
    }
}
