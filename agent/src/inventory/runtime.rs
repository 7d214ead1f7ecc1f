//! What container runtimes write down about the containers that run.
//!
//! In: the identifier of a container, from the cgroup of one of its processes. Out: its facts. Called for processes ([`super::process`]) and by
//! the selection. Read are the bundles of containerd and CRI-O, of which only the annotations, and Docker's file of a container, of
//! which only name, image and labels are looked at. No runtime and no API server is asked: this needs no credentials, works while
//! either is down, and costs a file once per container. A container of which nothing is written down is known by its identifier.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::{BufReader, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use agent_core::container::ContainerFacts;
use serde::Deserialize;

/// Folders in which a folder is named like the container: of containerd one for each of its namespaces, beside it those of k3s, k0s and MicroK8s.
const BUNDLES: &[&str] = &[
    "run/containerd/io.containerd.runtime.v2.task/*",
    "run/k3s/containerd/io.containerd.runtime.v2.task/*",
    "run/k0s/containerd/io.containerd.runtime.v2.task/*",
    "var/snap/microk8s/common/run/containerd/io.containerd.runtime.v2.task/*",
    // CRI-O and Podman; the file is in `userdata` there.
    "run/containers/storage/overlay-containers",
    "var/lib/containers/storage/overlay-containers",
];
/// Docker's.
const DOCKER: &[&str] = &["var/lib/docker/containers", "var/snap/docker/common/var-lib-docker/containers"];
/// Most bytes of a file that are read: a bundle has the environment and every mount.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// How long it is remembered what is written down about a container, which may be renamed; and that nothing is.
const WRITTEN_FOR: Duration = Duration::from_secs(60);
const UNWRITTEN_FOR: Duration = Duration::from_secs(5);
/// Containers that are remembered; of more, those whose time is over are forgotten, and if there are none, all.
const CONTAINERS_MAX: usize = 4_096;

/// Reads facts of containers.
#[derive(Debug)]
pub struct Runtimes {
    /// The root of the host's file system.
    root: PathBuf,
    known: HashMap<String, Known>,
}

#[derive(Debug)]
struct Known {
    facts: Arc<ContainerFacts>,
    until: Instant,
}

/// An OCI runtime's configuration (`config.json`).
#[derive(Deserialize)]
struct Bundle {
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// Docker's `config.v2.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Docker {
    #[serde(default)]
    name: String,
    config: DockerConfig,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerConfig {
    #[serde(default)]
    image: String,
    labels: Option<BTreeMap<String, String>>,
}

impl Default for Runtimes {
    /// Of this host, also if the agent itself runs in a container that sees the host's processes.
    fn default() -> Self {
        let of_init = Path::new("/proc/1/root");
        Self::below(if fs::read_dir(of_init).is_ok() { of_init } else { Path::new("/") })
    }
}

impl Runtimes {
    fn below(root: &Path) -> Self {
        Self { root: root.to_path_buf(), known: HashMap::new() }
    }

    /// The facts of the container whose cgroup this is, or that of something in it.
    pub fn of_cgroup(&mut self, path: &str, now: Instant) -> Option<Arc<ContainerFacts>> {
        let mut facts = ContainerFacts::of_cgroup(path)?;
        if let Some(known) = self.known.get(&facts.id).filter(|known| now < known.until) {
            return Some(Arc::clone(&known.facts));
        }
        let lasts = if self.read(&mut facts) { WRITTEN_FOR } else { UNWRITTEN_FOR };
        if self.known.len() >= CONTAINERS_MAX {
            self.known.retain(|_, known| now < known.until);
        }
        if self.known.len() >= CONTAINERS_MAX {
            self.known.clear();
        }
        let facts = Arc::new(facts);
        self.known.insert(facts.id.clone(), Known { facts: Arc::clone(&facts), until: now + lasts });
        Some(facts)
    }

    /// Takes what is written down; false: nothing.
    fn read(&self, facts: &mut ContainerFacts) -> bool {
        let id = facts.id.clone();
        let docker =
            DOCKER.iter().find_map(|folder| json::<Docker>(&self.root.join(folder).join(&id).join("config.v2.json")));
        if let Some(docker) = docker {
            facts.name = Some(docker.name.trim_start_matches('/').to_owned()).filter(|name| !name.is_empty());
            facts.take_image(&docker.config.image);
            docker.config.labels.iter().flatten().for_each(|(key, value)| facts.take(key, value));
            return true;
        }
        let bundle = BUNDLES.iter().flat_map(|folder| self.folders(folder)).find_map(|folder| {
            let folder = folder.join(&id);
            json::<Bundle>(&folder.join("config.json")).or_else(|| json(&folder.join("userdata/config.json")))
        });
        let Some(bundle) = bundle else { return false };
        bundle.annotations.iter().for_each(|(key, value)| facts.take(key, value));
        true
    }

    fn folders(&self, folder: &str) -> Vec<PathBuf> {
        let Some(parent) = folder.strip_suffix("/*") else { return vec![self.root.join(folder)] };
        let entries = fs::read_dir(self.root.join(parent)).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    }
}

fn json<T: for<'de> Deserialize<'de>>(path: &Path) -> Option<T> {
    let file = File::open(path).ok()?;
    match serde_json::from_reader(BufReader::new(file.take(FILE_BYTES_MAX))) {
        Ok(read) => Some(read),
        Err(error) => {
            tracing::debug!(%error, path = %path.display(), "what a container runtime wrote cannot be read");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    const ID: &str = "3a1f0c9d5e7b2486a0c1e2d3f4b5a69788796a5b4c3d2e1f00112233445566aa";

    fn host(files: &[(String, &str)]) -> TempDir {
        let root = TempDir::new().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn facts(root: &TempDir) -> Arc<ContainerFacts> {
        Runtimes::below(root.path()).of_cgroup(&format!("/x/{ID}"), Instant::now()).unwrap()
    }

    #[test]
    fn a_bundle_of_containerd_says_pod_container_and_image() {
        let text = r#"{"ociVersion":"1.0.2","process":{"env":["PASSWORD=secret"]},"annotations":{
            "io.kubernetes.cri.container-name":"server","io.kubernetes.cri.sandbox-name":"checkout-7d9f8b6c5d-x2x4z",
            "io.kubernetes.cri.sandbox-namespace":"shop","io.kubernetes.cri.image-name":"ghcr.io/shop/checkout:2.1"}}"#;
        let root = host(&[(format!("run/containerd/io.containerd.runtime.v2.task/k8s.io/{ID}/config.json"), text)]);
        let facts = facts(&root);
        assert_eq!(facts.pod().as_deref(), Some("shop/checkout-7d9f8b6c5d-x2x4z"));
        assert_eq!((facts.name.as_deref(), facts.image_tag.as_deref()), (Some("server"), Some("2.1")));
    }

    #[test]
    fn a_bundle_of_cri_o_says_the_same() {
        let text = r#"{"annotations":{"io.kubernetes.container.name":"server","io.kubernetes.pod.name":"cart-0",
            "io.kubernetes.pod.namespace":"shop","io.kubernetes.cri-o.ImageName":"quay.io/shop/cart:7"}}"#;
        let root = host(&[(format!("run/containers/storage/overlay-containers/{ID}/userdata/config.json"), text)]);
        let facts = facts(&root);
        assert_eq!(facts.service_instance().as_deref(), Some("shop.cart-0.server"));
        assert_eq!(facts.image_name.as_deref(), Some("quay.io/shop/cart"));
    }

    #[test]
    fn docker_says_name_image_and_the_service_of_compose() {
        let text = r#"{"Name":"/shop-web-1","State":{"Running":true},"Config":{"Env":["PASSWORD=secret"],"Image":"nginx:1.25",
            "Labels":{"com.docker.compose.service":"web","com.docker.compose.project":"shop"}}}"#;
        let root = host(&[(format!("var/lib/docker/containers/{ID}/config.v2.json"), text)]);
        let facts = facts(&root);
        assert_eq!((facts.name.as_deref(), facts.image_name.as_deref()), (Some("shop-web-1"), Some("nginx")));
        assert_eq!((facts.service_name(None), facts.service_namespace()), (Some("web"), Some("shop")));
    }

    #[test]
    fn what_is_damaged_or_not_there_leaves_the_identifier_and_is_read_again() {
        let path = format!("run/containerd/io.containerd.runtime.v2.task/k8s.io/{ID}/config.json");
        let root = host(&[(path.clone(), r#"{"annotations":{"io.kub"#)]);
        let mut runtimes = Runtimes::below(root.path());
        let cgroup = format!("/docker/{ID}");
        let begin = Instant::now();
        let mut name = |after| runtimes.of_cgroup(&cgroup, begin + after).unwrap().name.clone();
        assert_eq!(name(Duration::ZERO), None);
        fs::write(root.path().join(&path), r#"{"annotations":{"io.kubernetes.cri.container-name":"server"}}"#).unwrap();
        assert_eq!(name(Duration::ZERO), None, "a moment ago there was nothing");
        assert_eq!(name(UNWRITTEN_FOR).as_deref(), Some("server"));
        fs::remove_file(root.path().join(&path)).unwrap();
        assert_eq!(name(WRITTEN_FOR).as_deref(), Some("server"), "it is remembered");
        assert_eq!(name(WRITTEN_FOR + UNWRITTEN_FOR), None, "for a while");
    }
}
