//! What to do about an answer of the system, in words that both the worker and the command line use.

use std::io;

/// What the user can do about `error`, whatever was tried.
pub fn advice(error: &io::Error) -> &'static str {
    use rustix::io::Errno;
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOSPC | Errno::DQUOT) => "make room on the disk, then try again",
        Some(Errno::ACCESS | Errno::PERM) => {
            "look who owns it and who may do what with it (ls -ld), or choose another place"
        }
        Some(Errno::ROFS) => {
            "the file system is mounted read-only: choose another place, or mount it writable"
        }
        Some(Errno::NOENT) => "something on the path does not exist: look at how it is written",
        Some(Errno::NOTDIR) => "something on the path is not a directory: look at how it is written",
        Some(Errno::ISDIR) => "it is a directory: name a file",
        Some(Errno::EXIST | Errno::NOTEMPTY) => "choose another name, or move away what is there",
        Some(Errno::LOOP) => "symbolic links lead in a circle or where none may be: name the thing itself",
        Some(Errno::NAMETOOLONG) => "use a shorter path",
        Some(Errno::MFILE | Errno::NFILE) => {
            "too many files are open: close some, or raise the limit (ulimit -n)"
        }
        Some(Errno::AGAIN | Errno::NOMEM) => {
            "the system is short of processes or memory: end something, then try again"
        }
        Some(Errno::BUSY | Errno::TXTBSY) => "something else uses it: try again when that has ended",
        Some(Errno::IO) => "the disk reports an error: the kernel's log (dmesg) says more",
        Some(Errno::STALE | Errno::NOTCONN) => {
            "a file system is gone: mount it again, or choose another place"
        }
        _ => "try again; with -v selvedge logs what leads to it, and the kernel's log (dmesg) may say more",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_and_a_forbidden_file_ask_for_different_things() {
        let of = |errno: rustix::io::Errno| advice(&errno.into());
        assert!(of(rustix::io::Errno::NOSPC).contains("make room"));
        assert!(of(rustix::io::Errno::ACCESS).contains("ls -ld"));
    }
}
