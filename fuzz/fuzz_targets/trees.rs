//! Directories as objects: what is accepted is the one encoding of what it says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use selvedge_fuzz::bounded;
use selvedge_store::{Tree, TreeBuilder};

fuzz_target!(|data: &[u8]| {
    // Its bytes, and four for each entry.
    let Ok(tree) = bounded(2 * data.len() + 4096, || Tree::decode(data)) else { return };
    let mut builder = TreeBuilder::new();
    let mut names = 0;
    for (name, entry) in tree.iter() {
        assert_eq!(tree.lookup(name).as_ref(), Some(&entry));
        assert!(tree.find_ino(entry.meta.ino).is_some());
        builder.push(name, entry);
        names += 1;
    }
    assert_eq!((names, tree.iter_names().count()), (tree.len(), tree.len()));
    assert_eq!(builder.finish().expect("what was read can be written").bytes, data);
});
