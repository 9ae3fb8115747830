//! Where the helper is, and whether it has been given what it needs.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::StatVfsMountFlags;

/// The helper's program, which lies beside the worker's.
pub const NAME: &str = "selvedge-backing-helper";

/// The bit of `CAP_SYS_ADMIN` in the first word of a set.
const SYS_ADMIN: u32 = 1 << 21;

/// How a helper is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Installed {
    /// It has the capability.
    Capable(PathBuf),
    /// It is there without the capability.
    Without(PathBuf),
    /// It has the capability, which counts for nothing where it lies (`nosuid`).
    Powerless(PathBuf),
    /// There is none, where it should be.
    Missing(PathBuf),
}

impl Installed {
    /// The one beside the program at `worker`.
    pub fn beside(worker: &Path) -> Self {
        let program = worker.with_file_name(NAME);
        match given(&program) {
            Err(_) => Self::Missing(program),
            Ok(false) => Self::Without(program),
            Ok(true) if lies_nosuid(&program) => Self::Powerless(program),
            Ok(true) => Self::Capable(program),
        }
    }

    /// Why it is of no use, and what to do about it; `None` if it is.
    pub fn obstacle(&self) -> Option<String> {
        match self {
            Self::Capable(_) => None,
            Self::Without(program) => Some(format!(
                "the helper {} has not been given the capability CAP_SYS_ADMIN (as root: setcap cap_sys_admin+ep {0})",
                program.display()
            )),
            Self::Powerless(program) => Some(format!(
                "the helper {} lies on a file system that is mounted nosuid, where capabilities of programs do not count",
                program.display()
            )),
            Self::Missing(program) => Some(format!("its helper is not installed at {}", program.display())),
        }
    }
}

/// Whether a program is permitted the capability by its file (`security.capability`, capabilities(7)), in the machine's own
/// user namespace.
fn given(program: &Path) -> io::Result<bool> {
    if !std::fs::metadata(program)?.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let mut value = [0; 24];
    let Ok(length) = rustix::fs::getxattr(program, "security.capability", &mut value[..]) else {
        return Ok(false);
    };
    Ok(permits(value.get(..length).unwrap_or_default()))
}

/// `struct vfs_cap_data`: revision and flags, then permitted and inheritable for each 32 capabilities; in its third
/// revision the user in whose namespaces it counts is behind that.
fn permits(value: &[u8]) -> bool {
    let word = |at: usize| value.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
    let revision = word(0).map(|word| word >> 24);
    let here = match revision {
        Some(2) => value.len() == 20,
        Some(3) => value.len() == 24 && word(20) == Some(0),
        _ => false,
    };
    here && word(4).is_some_and(|permitted| permitted & SYS_ADMIN != 0)
}

fn lies_nosuid(program: &Path) -> bool {
    rustix::fs::statvfs(program).is_ok_and(|disk| disk.f_flag.contains(StatVfsMountFlags::NOSUID))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_has_what_its_file_says() {
        let second = [1, 0, 0, 2, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(permits(&second));
        let other = {
            let mut other = second;
            other[6] = 0x40;
            other
        };
        assert!(!permits(&other));
        let third = |user: u8| [&[1, 0, 0, 3][..], &second[4..], &[user, 0, 0, 0]].concat();
        assert!(permits(&third(0)) && !permits(&third(1)));
        assert!(!permits(&[]) && !permits(&second[..19]));
    }

    #[test]
    fn a_helper_that_is_of_no_use_is_said_to_be() {
        let dir = tempfile::tempdir().unwrap();
        let worker = dir.path().join("selvedge-fuse-worker");
        let helper = dir.path().join(NAME);
        assert_eq!(Installed::beside(&worker), Installed::Missing(helper.clone()));
        std::fs::write(&helper, b"").unwrap();
        let found = Installed::beside(&worker);
        assert_eq!(found, Installed::Without(helper));
        assert!(found.obstacle().unwrap().contains("setcap cap_sys_admin+ep /"));
    }
}
