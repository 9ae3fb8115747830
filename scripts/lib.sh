# Sourced by the scripts beside it: where the checkout is, how to speak, how to become root.
# shellcheck shell=bash

set -euo pipefail
# Every script works on the checkout it lies in, whatever directory it was called from.
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$checkout"

# One line that says what happens next, apart from the output of the commands themselves.
say() { printf '==> %s\n' "$*"; }

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# Runs a command as root: directly, or through sudo without asking for a password in a script.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif have sudo; then
        sudo "$@"
    else
        fail "this needs root, and there is no sudo: $*"
    fi
}

# Where cargo puts what it builds.
target_dir() {
    local dir=${CARGO_TARGET_DIR:-target}
    case $dir in
    /*) printf '%s\n' "$dir" ;;
    *) printf '%s\n' "$checkout/$dir" ;;
    esac
}

# Makes /dev/fuse usable by every user, as udev's rule for it does at boot. Containers and small machines
# have no udev: the device is missing there, or only root may open it.
open_fuse_device() {
    if [ ! -e /dev/fuse ]; then
        as_root modprobe fuse 2>/dev/null || true
    fi
    if [ ! -e /dev/fuse ]; then
        say "there is no /dev/fuse: making it (mknod -m 0666 /dev/fuse c 10 229)"
        as_root mknod -m 0666 /dev/fuse c 10 229
    fi
    [ -c /dev/fuse ] || fail "/dev/fuse is not a device"
    if [ "$(stat -c %a /dev/fuse)" != 666 ]; then
        say "making /dev/fuse usable for ordinary users, as udev does (chmod 0666 /dev/fuse)"
        as_root chmod 0666 /dev/fuse
    fi
}

# Mounts at or below a directory, as the mount table has them, innermost first. The mounts themselves are not
# asked: one that nobody serves would hang whoever asks.
mounts_below() {
    awk -v dir="$1" '$5 == dir || index($5, dir "/") == 1 { print $5 }' /proc/self/mountinfo | tac
}

# Processes whose program lies below a directory, as "PID PATH", also when the program's file is gone.
processes_from() {
    local process path
    for process in /proc/[0-9]*; do
        path=$(readlink "$process/exe" 2>/dev/null) || continue
        if [[ $path == "$1"/* ]]; then
            printf '%s %s\n' "${process#/proc/}" "$path"
        fi
    done
}

# Removes a temporary directory without ever descending into a mount.
remove_tree() {
    local mount
    for mount in $(mounts_below "$1"); do
        as_root umount -l "$mount" || true
    done
    rm -rf --one-file-system "$1"
}
