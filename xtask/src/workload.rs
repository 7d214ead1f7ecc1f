//! The small real workload of `cargo xtask run`: a client, a front and a back over loopback, in a cgroup of its own.
//!
//! In: a cgroup. Out: three processes in it, ended when dropped. The slow hop is the back's `/price/N` (40 ms).
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use crate::cgroup::Cgroup;

const SCRIPT: &str = include_str!("../workload/chain.py");

/// Running processes, in the order they were started.
pub struct Workload {
    children: Vec<Child>,
}

impl Workload {
    /// Starts the chain inside the cgroup; the script is written into `folder`.
    pub fn start(cgroup: &Cgroup, folder: &Path) -> Result<Self> {
        let script = folder.join("chain.py");
        fs::write(&script, SCRIPT).with_context(|| format!("write {}", script.display()))?;
        let mut workload = Self { children: Vec::new() };
        let back = workload.server(cgroup, &script, "shop-back", &["back"])?;
        let front = workload.server(cgroup, &script, "shop-front", &["front", &back])?;
        workload.spawn(cgroup, &script, "shopper", &["client", &front])?;
        Ok(workload)
    }

    /// Starts a server and returns the port that it prints.
    fn server(&mut self, cgroup: &Cgroup, script: &Path, service: &str, args: &[&str]) -> Result<String> {
        let child = self.spawn(cgroup, script, service, args)?;
        let stdout = child.stdout.take().context("standard output is piped")?;
        let mut port = String::new();
        BufReader::new(stdout).read_line(&mut port).with_context(|| format!("read the port of {service}"))?;
        let port = port.trim().to_owned();
        port.parse::<u16>().with_context(|| format!("{service} ended before it listened"))?;
        Ok(port)
    }

    fn spawn(&mut self, cgroup: &Cgroup, script: &Path, service: &str, args: &[&str]) -> Result<&mut Child> {
        // The shell enters the cgroup, then becomes the program: no instant of it runs outside.
        let mut command = Command::new("/bin/sh");
        command.args(["-c", r#"echo $$ >"$1/cgroup.procs" && shift && exec "$@""#, "sh"]).arg(&cgroup.path);
        command.arg(python()).arg(script).args(args).env("OTEL_SERVICE_NAME", service);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let child = command.spawn().with_context(|| format!("start {service}"))?;
        self.children.push(child);
        self.children.last_mut().context("a child was just pushed")
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        // The client first, so that no request is cut in the middle by a server that went away.
        for child in self.children.iter_mut().rev() {
            let _ = child.kill(); // already gone is as good
            let _ = child.wait();
        }
    }
}

/// Debian's Python where there is one: a version manager's wrapper in PATH would be traced as well.
fn python() -> PathBuf {
    let debian = PathBuf::from("/usr/bin/python3");
    if debian.is_file() { debian } else { PathBuf::from("python3") }
}
