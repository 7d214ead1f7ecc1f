//! containerd and containers of its.
//!
//! What Kubernetes' kubelet has containerd write down about a container (its CRI annotations) is given to it by `ctr` here; the file, its
//! place and the cgroup are containerd's and runc's own work. The host's containerd is used if it runs, else one of the test's own.

use std::{
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    clock,
    http::actor_program,
    process::{Launch, Process, tool},
    temp::{TempDir, unique},
};

/// Where the host's own listens.
const HOST_SOCKET: &str = "/run/containerd/containerd.sock";
const NAMESPACE: &str = "spantap-test";
const START_BOUND: Duration = Duration::from_secs(30);
/// Most seconds that a container runs, also if the test that started it was killed.
const LIFE_SECONDS: &str = "120";
/// The identifier of the pod in every test.
pub const POD_UID: &str = "6f1d2c3b-4a59-4867-9786-a5b4c3d2e1f0";

/// A running containerd. There is one at a time in a process: its state and the names of the pods are the host's.
pub struct Containerd {
    socket: PathBuf,
    folder: TempDir,
    _process: Option<Process>,
    /// Let go of when all else is gone.
    _only: MutexGuard<'static, ()>,
}

/// A container that runs; it is killed and removed with the guard.
pub struct Container<'a> {
    containerd: &'a Containerd,
    /// Its identifier.
    pub id: String,
}

impl Containerd {
    /// The host's, or one of its own that keeps its state where the host's would, since that is where the agent looks.
    pub fn start() -> Self {
        static ONLY: Mutex<()> = Mutex::new(());
        let only = ONLY.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = TempDir::new("ctd");
        std::fs::create_dir(folder.join("rootfs")).expect("an empty root");
        if UnixStream::connect(HOST_SOCKET).is_ok() {
            return Self { socket: HOST_SOCKET.into(), folder, _process: None, _only: only };
        }
        let socket = folder.join("s.sock");
        let config = format!(
            "version = 2\nroot = \"{root}\"\nstate = \"/run/containerd\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"{socket}\"\n",
            root = folder.join("root").display(),
            socket = socket.display()
        );
        let config = folder.write("config.toml", config);
        let launch = Launch::new(tool("containerd")).arg("--config").arg(config);
        let process = launch.stderr_to(&folder.join("log")).spawn();
        clock::wait_for("containerd listens", START_BOUND, || UnixStream::connect(&socket).ok());
        Self { socket, folder, _process: Some(process), _only: only }
    }

    /// Runs the actor `args` in a container of the host's network, annotated as a container of a pod.
    pub fn run(&self, annotations: &[(&str, &str)], args: &[&str]) -> Container<'_> {
        let id = format!("3a1f{:028x}{:032x}", std::process::id(), unique());
        // One folder, which goes with the container.
        let cgroup = format!("/kubepods-pod{}.slice:cri-containerd:{id}", POD_UID.replace('-', "_"));
        let program = actor_program();
        let folder = program.parent().expect("a folder of programs");
        let mut launch = self.ctr().args(["run", "-d", "--rootfs", "--net-host", "--cgroup", &cgroup]);
        for (key, value) in annotations {
            launch = launch.arg("--annotation").arg(format!("{key}={value}"));
        }
        let mounts = ["/usr", "/lib", "/lib64", "/bin"].map(|path| (Path::new(path), path));
        for (from, to) in mounts.into_iter().chain([(folder, "/actors")]) {
            let from = from.display();
            launch = launch.arg("--mount").arg(format!("type=bind,src={from},dst={to},options=rbind:ro"));
        }
        let launch = launch.arg(self.folder.join("rootfs")).arg(&id);
        launch.args(["/usr/bin/timeout", "-s", "KILL", LIFE_SECONDS, "/actors/actor"]).args(args).run();
        Container { containerd: self, id }
    }

    fn ctr(&self) -> Launch {
        Launch::new(tool("ctr")).arg("-a").arg(&self.socket).args(["-n", NAMESPACE])
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        // Whatever of it is there; a failure here has nobody to tell.
        for args in [&["task", "rm", "-f"][..], &["container", "rm"][..]] {
            self.containerd.ctr().args(args).arg(&self.id).output();
        }
    }
}
