//! What the kernel says of the threads of a worker that hangs. It says so of one that is stopped, too, and of one that waits
//! in the kernel and can tell nothing itself.

use std::fs;
use std::path::Path;

use selvedge_mountpoint::escape_for_print;

/// One line for each thread, as far as this process may know.
pub(crate) fn threads(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut paths: Vec<_> = tasks.map(|entry| entry.path()).collect();
    paths.sort();
    paths.iter().map(|path| thread(path)).collect()
}

fn thread(path: &Path) -> String {
    let about = |name: &str| fs::read(path.join(name)).unwrap_or_default();
    let text = |name: &str| escape_for_print(about(name).trim_ascii());
    let number = path.file_name().unwrap_or_default().to_string_lossy();
    let stat = String::from_utf8_lossy(&about("stat")).into_owned();
    // The name before it may have spaces and brackets of its own.
    let state =
        stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').next()).unwrap_or("gone").to_owned();
    let call = text("syscall");
    let call = call.split(' ').next().unwrap_or_default();
    // Root alone is shown it: one function a line, after its address.
    let stack = String::from_utf8_lossy(&about("stack")).into_owned();
    let stack: Vec<&str> = stack.lines().filter_map(|line| line.split("] ").nth(1)).collect();
    let stack =
        if stack.is_empty() { String::new() } else { format!(", in the kernel: {}", stack.join(" < ")) };
    format!(
        "thread {number} ({}): state {state}, system call {call}, waiting in {}{stack}",
        text("comm"),
        text("wchan")
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_thread_is_described() {
        let (_wake, asleep) = std::sync::mpsc::channel::<()>();
        std::thread::Builder::new().name("asleep".to_owned()).spawn(move || asleep.recv()).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        // It has its name as soon as it runs.
        loop {
            let told = super::threads(std::process::id());
            if told.iter().any(|line| line.contains("(asleep): state")) {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "{told:?}");
            std::thread::yield_now();
        }
    }
}
