//! One subject with a tree before it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use selvedge_mountpoint::mountinfo;

use super::subject::Subject;
use crate::{built, run};

/// How long a subject may take to come or to go.
const PATIENCE: Duration = Duration::from_secs(30);

/// A subject that has a tree before it. What it is made of goes when it is ended.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) subject: Subject,
    /// Everything of it: the tree beneath, layers, mountpoint.
    dir: PathBuf,
    root: PathBuf,
    server: Option<Server>,
    /// How often it was made anew.
    round: usize,
    /// Whether everything of it has been taken away.
    ended: bool,
}

/// The process that answers.
#[derive(Debug)]
enum Server {
    /// Ours, which belongs to the service.
    Worker(u32),
    Program(Child),
}

impl Stage {
    /// Gives `subject` the tree that `tree` makes, below the directory `image`.
    pub(crate) fn set(subject: Subject, image: &Path, tree: &dyn Fn(&Path) -> Result<()>) -> Result<Self> {
        let dir = image.join(subject.name());
        let beneath = dir.join("tree");
        fs::create_dir_all(&beneath)?;
        tree(&beneath)?;
        let root = if subject == Subject::Host { beneath } else { dir.join("mount") };
        fs::create_dir_all(&root)?;
        let mut stage = Self { subject, dir, root, server: None, round: 0, ended: false };
        if subject.is_ours() {
            for words in [["init"], ["import"]] {
                run(&mut stage.selvedge(&words)?)?;
            }
        }
        stage.start()?;
        Ok(stage)
    }

    /// The tree, as programs see it.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Processes that answer for it.
    pub(crate) fn servers(&self) -> Vec<u32> {
        match &self.server {
            None => Vec::new(),
            Some(Server::Worker(pid)) => vec![*pid],
            Some(Server::Program(child)) => vec![child.id()],
        }
    }

    /// Makes it anew: nothing was ever changed, and nobody remembers anything.
    pub(crate) fn refresh(&mut self) -> Result<()> {
        if self.subject.is_layered() {
            self.stop()?;
            self.round += 1;
            self.start()?;
        }
        Ok(())
    }

    /// Takes it away.
    pub(crate) fn end(mut self) -> Result<()> {
        self.stop()?;
        self.stop_service()?;
        self.ended = true;
        fs::remove_dir_all(&self.dir).with_context(|| format!("removing what {} had", self.subject.name()))
    }

    fn stop_service(&self) -> Result<()> {
        if self.subject.is_ours() {
            run(&mut self.selvedge(&["service", "stop"])?)?;
        }
        Ok(())
    }

    fn start(&mut self) -> Result<()> {
        let (tree, root) = (self.dir.join("tree"), self.root.clone());
        self.server = match self.subject {
            Subject::Host => None,
            Subject::Selvedge | Subject::SmallFiles | Subject::Writeback => {
                Some(Server::Worker(self.mount_thread()?))
            }
            Subject::Memory => Some(self.spawn(Command::new(built("memory-fs")?).args([&tree, &root]))?),
            Subject::Bindfs => Some(self.spawn(Command::new("bindfs").arg("-f").args([&tree, &root]))?),
            Subject::FuseOverlayfs => {
                let layers = self.layers()?;
                Some(self.spawn(Command::new("fuse-overlayfs").args(["-f", "-o", &layers]).arg(&root))?)
            }
            Subject::Overlayfs => {
                let layers = self.layers()?;
                run(Command::new("mount").args(["-t", "overlay", "overlay", "-o", &layers]).arg(&root))?;
                None
            }
        };
        self.check_inside()
    }

    fn stop(&mut self) -> Result<()> {
        match self.server.take() {
            None if self.subject == Subject::Host => Ok(()),
            Some(Server::Worker(_)) => run(self.selvedge(&["unmount"])?.arg(&self.root)).map(drop),
            server => {
                // What a server that ended has left needs no unmounting.
                if !mountinfo::at(&self.root)?.is_empty() {
                    run(Command::new("umount").arg("-l").arg(&self.root))?;
                }
                if let Some(Server::Program(mut child)) = server {
                    wait(&mut child)?;
                }
                Ok(())
            }
        }
    }

    /// Whether programs that go to the tree arrive in the subject's mount.
    fn check_inside(&self) -> Result<()> {
        let device = |path: &Path| anyhow::Ok(fs::metadata(path)?.dev());
        let apart = device(&self.root)? != device(&self.dir)?;
        ensure!(
            apart == (self.subject != Subject::Host),
            "{} is not where it should be",
            self.subject.name()
        );
        Ok(())
    }

    /// Mounts the thread, a new one at every round, and tells its worker.
    fn mount_thread(&self) -> Result<u32> {
        let thread = if self.round == 0 { "main".to_owned() } else { format!("round-{}", self.round) };
        if self.round > 0 {
            run(&mut self.selvedge(&["thread", "create", &thread, "--from", "main"])?)?;
        }
        let setting = self.subject.setting().context("no mount of ours")?;
        let said = run(self.selvedge(&["--json", "mount", "--set", setting, &thread])?.arg(&self.root))?;
        let said: serde_json::Value = serde_json::from_str(&said)?;
        let pid = said["worker_pid"].as_u64().context("the mount has no worker")?;
        Ok(u32::try_from(pid)?)
    }

    /// What overlays are told: the tree beneath, and an empty layer of this round.
    fn layers(&self) -> Result<String> {
        let (upper, work) =
            (self.dir.join(format!("upper-{}", self.round)), self.dir.join(format!("work-{}", self.round)));
        for dir in [&upper, &work] {
            fs::create_dir_all(dir)?;
        }
        let (lower, upper, work) = (self.dir.join("tree"), upper, work);
        Ok(format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display()))
    }

    /// Starts a server and waits for its mount.
    fn spawn(&self, program: &mut Command) -> Result<Server> {
        let mut child = program.stdin(Stdio::null()).spawn().with_context(|| format!("{program:?}"))?;
        let deadline = Instant::now() + PATIENCE;
        while mountinfo::at(&self.root)?.is_empty() {
            if let Some(status) = child.try_wait()? {
                bail!("{program:?} ended: {status}");
            }
            if Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                bail!("{program:?} does not mount");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Server::Program(child))
    }

    fn selvedge(&self, words: &[&str]) -> Result<Command> {
        let mut command = Command::new(built("selvedge")?);
        command.current_dir(self.dir.join("tree")).args(words);
        command.env("SELVEDGE_RUNTIME_DIR", self.dir.join("run")).env_remove("SELVEDGE_REPO");
        Ok(command)
    }
}

fn wait(child: &mut Child) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            bail!("a server did not end with its mount");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        for error in [self.stop(), self.stop_service()].into_iter().filter_map(Result::err) {
            eprintln!("{error:#}");
        }
    }
}
