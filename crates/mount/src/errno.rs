//! The one table from errors to error numbers.

use std::io;

use fuser::Errno;
use selvedge_store::StoreError;
use selvedge_view::ViewError;

/// The error number with which the kernel answers the application.
///
/// `ENOSYS` is never among them: to the kernel it means that the operation does not exist, now or ever.
pub fn errno_of(error: &ViewError) -> Errno {
    match error {
        ViewError::NotFound => Errno::ENOENT,
        ViewError::Exists => Errno::EEXIST,
        ViewError::NotDirectory => Errno::ENOTDIR,
        ViewError::IsDirectory => Errno::EISDIR,
        ViewError::NotEmpty => Errno::ENOTEMPTY,
        ViewError::Invalid(_) | ViewError::Loop => Errno::EINVAL,
        ViewError::NameTooLong => Errno::ENAMETOOLONG,
        ViewError::NotPermitted(_) => Errno::EPERM,
        ViewError::TooManyLinks => Errno::EMLINK,
        ViewError::ReadOnly => Errno::EROFS,
        ViewError::BadHandle => Errno::EBADF,
        ViewError::NoXattr => Errno::NO_XATTR,
        ViewError::XattrTooBig => Errno::E2BIG,
        ViewError::FileTooBig => Errno::EFBIG,
        ViewError::NoData => Errno::ENXIO,
        ViewError::NotSupported(_) => Errno::EOPNOTSUPP,
        ViewError::Latched(_)
        | ViewError::Damaged { .. }
        | ViewError::CatalogFormat { .. }
        | ViewError::Journal { .. }
        | ViewError::LayerLost { .. } => Errno::EIO,
        ViewError::Host { source, .. } => of_host(source),
        ViewError::Catalog(source) => of_catalog(source),
        ViewError::Layer { source, .. } => errno_of(source),
        ViewError::Store(source) => of_store(source),
        ViewError::Refs(source) => source.errno().map_or(Errno::EIO, of_number),
    }
}

/// The host's own number: a full disk or an exceeded quota is the application's to hear about.
fn of_host(source: &io::Error) -> Errno {
    source.raw_os_error().map_or(Errno::EIO, of_number)
}

fn of_store(source: &StoreError) -> Errno {
    source.errno().map_or(Errno::EIO, of_number)
}

fn of_catalog(source: &rusqlite::Error) -> Errno {
    match source.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => Errno::ENOSPC,
        _ => Errno::EIO,
    }
}

fn of_number(number: i32) -> Errno {
    match number {
        libc::ENOSYS => Errno::EIO,
        number => Errno::from_i32(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use selvedge_store::RefsError;

    fn host(number: i32) -> ViewError {
        ViewError::Host { what: "write", source: io::Error::from_raw_os_error(number) }
    }

    #[test]
    fn a_full_disk_is_told_as_such() {
        assert_eq!(errno_of(&host(libc::ENOSPC)), Errno::ENOSPC);
        assert_eq!(errno_of(&host(libc::EDQUOT)), Errno::EDQUOT);
        let full = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL);
        let full = ViewError::Catalog(rusqlite::Error::SqliteFailure(full, None));
        assert_eq!(errno_of(&full), Errno::ENOSPC);
        let full = RefsError::Random(io::Error::from_raw_os_error(libc::ENOSPC));
        assert_eq!(errno_of(&ViewError::Refs(full)), Errno::ENOSPC);
    }

    #[test]
    fn no_error_switches_an_operation_off() {
        assert_eq!(errno_of(&host(libc::ENOSYS)), Errno::EIO);
    }

    #[test]
    fn what_has_no_number_is_an_io_error() {
        let error = ViewError::Host { what: "read", source: io::Error::other("short") };
        assert_eq!(errno_of(&error), Errno::EIO);
        assert_eq!(errno_of(&ViewError::Latched("fsync".into())), Errno::EIO);
    }
}
