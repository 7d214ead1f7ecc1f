//! The container that a process runs in, and what it is called.
//!
//! In: the path of a cgroup; what a container runtime wrote down about a container. Out: [`ContainerFacts`]. Called by `agent`, which
//! reads both from files. Names of pods and containers are those that the runtime was told; only [`workload`] is a guess, by the
//! rules by which Kubernetes makes names.

/// A container, by the attributes of the semantic conventions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerFacts {
    /// `container.id`.
    pub id: String,
    /// `container.name`; of a pod's container `k8s.container.name`.
    pub name: Option<String>,
    /// `container.image.name`.
    pub image_name: Option<String>,
    /// `container.image.tags`, of which a runtime knows the one that it was told.
    pub image_tag: Option<String>,
    /// `k8s.namespace.name`.
    pub namespace: Option<String>,
    /// `k8s.pod.name`.
    pub pod_name: Option<String>,
    /// `k8s.pod.uid`.
    pub pod_uid: Option<String>,
    /// The service of a Compose project.
    pub compose_service: Option<String>,
    /// That project.
    pub compose_project: Option<String>,
}

/// Length of an identifier of a container, in hexadecimal digits.
const ID_DIGITS: usize = 64;
/// What the names that Kubernetes makes up consist of (`k8s.io/apimachinery/pkg/util/rand`).
const RANDOM: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

impl ContainerFacts {
    /// What the path of its cgroup says of a container: its identifier, and the identifier of its pod.
    ///
    /// Known are the paths of containerd, CRI-O, Docker and Podman below cgroups of systemd, or plain ones. The innermost counts.
    pub fn of_cgroup(path: &str) -> Option<Self> {
        let id = path.rsplit('/').find_map(container_id)?;
        let pod_uid = path.split('/').rev().find_map(pod_uid);
        Some(Self { id: id.to_owned(), pod_uid, ..Self::default() })
    }

    /// Takes what the runtime says: annotations of containerd's and CRI-O's bundles, labels of Docker. What others say is passed over.
    pub fn take(&mut self, key: &str, value: &str) {
        let field = match key {
            "io.kubernetes.cri.container-name" | "io.kubernetes.container.name" => &mut self.name,
            "io.kubernetes.cri.sandbox-name" | "io.kubernetes.pod.name" => &mut self.pod_name,
            "io.kubernetes.cri.sandbox-namespace" | "io.kubernetes.pod.namespace" => &mut self.namespace,
            "io.kubernetes.cri.sandbox-uid" | "io.kubernetes.pod.uid" => &mut self.pod_uid,
            "io.kubernetes.cri.image-name" | "io.kubernetes.cri-o.ImageName" => return self.take_image(value),
            "com.docker.compose.service" => &mut self.compose_service,
            "com.docker.compose.project" => &mut self.compose_project,
            _ => return,
        };
        *field = Some(value.to_owned()).filter(|value| !value.is_empty());
    }

    /// Takes the reference of an image: `registry:5000/shop/web:1.2@sha256:…`.
    pub fn take_image(&mut self, reference: &str) {
        let name = reference.split('@').next().unwrap_or_default();
        // A colon before the last slash is that of a port.
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (name, None),
        };
        // Of an image without a name there is only the digest.
        if name.is_empty() || name == "sha256" || is_hex(name, ID_DIGITS) {
            return;
        }
        self.image_name = Some(name.to_owned());
        self.image_tag = tag.filter(|tag| !tag.is_empty()).map(str::to_owned);
    }

    /// Whether it belongs to a pod.
    pub fn is_in_pod(&self) -> bool {
        self.pod_name.is_some() || self.pod_uid.is_some()
    }

    /// `service.name` of what does not say its own: the workload of the pod, or the service of the Compose project.
    pub fn service_name(&self, node_name: Option<&str>) -> Option<&str> {
        let pod = self.pod_name.as_deref().map(|pod| workload(pod, node_name));
        pod.or(self.compose_service.as_deref())
    }

    /// `service.namespace`, likewise.
    pub fn service_namespace(&self) -> Option<&str> {
        self.namespace.as_deref().or(self.compose_project.as_deref())
    }

    /// `service.instance.id` of a pod's container, as OpenTelemetry's conventions for Kubernetes build it.
    pub fn service_instance(&self) -> Option<String> {
        Some(format!("{}.{}.{}", self.namespace.as_ref()?, self.pod_name.as_ref()?, self.name.as_ref()?))
    }

    /// Whether a pattern of containers names it: its name, or at least twelve digits of its identifier.
    pub fn is_named(&self, matches: impl Fn(&str) -> bool, pattern: &str) -> bool {
        const DIGITS_MIN: usize = 12;
        let by_id = pattern.len() >= DIGITS_MIN && self.id.starts_with(pattern);
        by_id || self.name.as_deref().is_some_and(matches)
    }

    /// `namespace/pod`, by which patterns of pods name it.
    pub fn pod(&self) -> Option<String> {
        Some(format!("{}/{}", self.namespace.as_ref()?, self.pod_name.as_ref()?))
    }
}

/// The workload that a pod belongs to, by what Kubernetes appends to its name for the pod's. A pod of its own keeps its name, unless it happens to
/// end alike.
pub fn workload<'a>(pod: &'a str, node_name: Option<&str>) -> &'a str {
    // Of a pod from a file on the node: the node's name.
    if let Some(name) =
        node_name.and_then(|node| pod.strip_suffix(node)?.strip_suffix('-')).filter(|name| !name.is_empty())
    {
        return name;
    }
    let Some((owner, last)) = split(pod) else { return pod };
    // StatefulSet: an ordinal.
    if is_number(last, 1..=5) && !is_random(last, 5..=5) {
        return owner;
    }
    if !is_random(last, 5..=5) {
        return pod;
    }
    // ReplicaSet of a Deployment: a hash. Job of a CronJob: minutes since 1970. DaemonSet, Job, ReplicaSet: neither.
    match split(owner) {
        Some((name, middle)) if is_random(middle, 6..=10) || is_number(middle, 8..=10) => name,
        _ => owner,
    }
}

fn split(name: &str) -> Option<(&str, &str)> {
    name.rsplit_once('-').filter(|(owner, last)| !owner.is_empty() && !last.is_empty())
}

fn is_random(text: &str, lengths: std::ops::RangeInclusive<usize>) -> bool {
    lengths.contains(&text.len()) && text.bytes().all(|byte| RANDOM.contains(&byte))
}

fn is_number(text: &str, lengths: std::ops::RangeInclusive<usize>) -> bool {
    lengths.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// `<id>`, `docker-<id>.scope`, `kubepods-….slice:cri-containerd:<id>`.
fn container_id(folder: &str) -> Option<&str> {
    let name = folder.strip_suffix(".scope").unwrap_or(folder);
    let (prefix, id) = name.rsplit_once(['-', ':']).unwrap_or(("", name));
    // The process that watches over a container of Podman or CRI-O is outside it.
    (is_hex(id, ID_DIGITS) && !prefix.ends_with("conmon")).then_some(id)
}

/// `pod<uid>`, `kubepods-burstable-pod<uid>.slice`, there with `_` for `-`; of a pod from a file 32 digits.
fn pod_uid(folder: &str) -> Option<String> {
    let name = folder.split(':').next()?;
    let name = name.strip_suffix(".slice").unwrap_or(name);
    let uid = name.strip_prefix("pod").or_else(|| name.rsplit_once("-pod").map(|(_, uid)| uid))?;
    let uid = uid.replace('_', "-");
    let lengths = uid.split('-').map(str::len);
    let is_uid = lengths.eq([8, 4, 4, 4, 12]) && uid.split('-').all(|part| is_hex(part, part.len()));
    (is_uid || is_hex(&uid, 32)).then_some(uid)
}

/// What a fuzzer tries: nothing panics, and what is said is part of what was read.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Some(facts) = ContainerFacts::of_cgroup(&text) {
        assert!(is_hex(&facts.id, ID_DIGITS) && text.contains(&facts.id));
        assert!(facts.pod_uid.is_none_or(|uid| text.replace('_', "-").contains(&uid)));
    }
    let mut facts = ContainerFacts::default();
    facts.take_image(&text);
    assert!(facts.image_name.as_ref().is_none_or(|name| !name.is_empty() && text.starts_with(name.as_str())));
    for line in text.lines() {
        let (pod, node) = line.split_once(' ').unwrap_or((line, ""));
        let name = workload(pod, Some(node).filter(|node| !node.is_empty()));
        assert!(pod.starts_with(name) && (pod.is_empty() || !name.is_empty()));
        facts.take(pod, node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3a1f0c9d5e7b2486a0c1e2d3f4b5a69788796a5b4c3d2e1f00112233445566aa";
    const UID: &str = "6f1d2c3b-4a59-4867-9786-a5b4c3d2e1f0";

    #[test]
    fn paths_of_runtimes_say_container_and_pod() {
        let underscored = UID.replace('-', "_");
        let check = |path: String, uid: Option<&str>| {
            let facts = ContainerFacts::of_cgroup(&path).unwrap_or_else(|| panic!("{path}"));
            assert_eq!((facts.id.as_str(), facts.pod_uid.as_deref()), (ID, uid), "{path}");
        };
        let slices = format!("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{underscored}.slice");
        check(format!("{slices}/cri-containerd-{ID}.scope"), Some(UID));
        check(format!("{slices}/crio-{ID}.scope/container"), Some(UID));
        check(format!("/../..{slices}/cri-containerd-{ID}.scope"), Some(UID));
        check(format!("/kubepods.slice/kubepods-pod{underscored}.slice:cri-containerd:{ID}"), Some(UID));
        check(format!("/kubepods/besteffort/pod{UID}/{ID}"), Some(UID));
        check(format!("/kubepods/pod{}/{ID}", &ID[..32]), Some(&ID[..32]));
        check(format!("/system.slice/docker-{ID}.scope"), None);
        check(format!("/system.slice/docker-{ID}.scope/init.scope"), None);
        check(format!("/docker/{ID}"), None);
        check(format!("/machine.slice/libpod-{ID}.scope/container"), None);
        check(format!("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope"), None);
    }

    #[test]
    fn other_paths_say_nothing() {
        for path in ["", "/", "/system.slice/nginx.service", "/kubepods.slice/kubepods-burstable.slice"] {
            assert_eq!(ContainerFacts::of_cgroup(path), None, "{path}");
        }
        assert_eq!(ContainerFacts::of_cgroup(&format!("/machine.slice/libpod-conmon-{ID}.scope")), None);
        assert_eq!(ContainerFacts::of_cgroup(&format!("/docker/{}", &ID[1..])), None);
        assert_eq!(ContainerFacts::of_cgroup(&format!("/docker/{}", ID.to_uppercase())), None);
    }

    #[test]
    fn references_of_images_have_names_and_tags() {
        let check = |reference: &str, name: Option<&str>, tag: Option<&str>| {
            let mut facts = ContainerFacts::default();
            facts.take_image(reference);
            assert_eq!((facts.image_name.as_deref(), facts.image_tag.as_deref()), (name, tag), "{reference}");
        };
        check("docker.io/library/nginx:1.25", Some("docker.io/library/nginx"), Some("1.25"));
        check("registry:5000/shop/web", Some("registry:5000/shop/web"), None);
        check("registry:5000/shop/web:1.2@sha256:00ff", Some("registry:5000/shop/web"), Some("1.2"));
        check("nginx", Some("nginx"), None);
        check(&format!("sha256:{ID}"), None, None);
        check(ID, None, None);
        check("", None, None);
    }

    #[test]
    fn pods_have_the_name_of_their_workload() {
        let check = |pod: &str, expected: &str| assert_eq!(workload(pod, Some("node-1")), expected, "{pod}");
        check("checkout-7d9f8b6c5d-x2x4z", "checkout");
        check("cart-redis-5f4b6c7d8f-zz2k9", "cart-redis");
        check("checkout-7d9f8b-x2x4z", "checkout");
        check("fluent-bit-x7k2p", "fluent-bit");
        check("postgres-0", "postgres");
        check("postgres-12345", "postgres");
        check("backup-28394720-bcdfg", "backup");
        check("kube-apiserver-node-1", "kube-apiserver");
        check("debug", "debug");
        check("my-shell", "my-shell");
        check("web-server", "web-server");
        check("-x7k2p", "-x7k2p");
        check("node-1", "node");
        assert_eq!(workload("kube-apiserver-node-1", None), "kube-apiserver-node");
    }

    #[test]
    fn a_container_of_a_pod_is_an_instance() {
        let mut facts = ContainerFacts::default();
        for (key, value) in [
            ("io.kubernetes.cri.container-name", "server"),
            ("io.kubernetes.cri.sandbox-name", "checkout-7d9f8b6c5d-x2x4z"),
            ("io.kubernetes.cri.sandbox-namespace", "shop"),
            ("io.kubernetes.cri.sandbox-uid", UID),
            ("io.kubernetes.cri.image-name", "ghcr.io/shop/checkout:2.1"),
            ("other", "passed over"),
        ] {
            facts.take(key, value);
        }
        assert_eq!(facts.service_name(None), Some("checkout"));
        assert_eq!(facts.service_namespace(), Some("shop"));
        assert_eq!(facts.service_instance().as_deref(), Some("shop.checkout-7d9f8b6c5d-x2x4z.server"));
        assert_eq!(facts.pod().as_deref(), Some("shop/checkout-7d9f8b6c5d-x2x4z"));
        assert!(facts.is_in_pod());
        assert!(facts.is_named(|name| name == "server", "server"));
    }

    #[test]
    fn a_container_is_named_by_a_part_of_its_identifier_that_is_long_enough() {
        let facts = ContainerFacts::of_cgroup(&format!("/docker/{ID}")).unwrap();
        assert!(facts.is_named(|_| false, &ID[..12]));
        assert!(!facts.is_named(|_| false, &ID[..11]));
    }

    #[test]
    fn compose_says_the_service() {
        let mut facts = ContainerFacts::default();
        facts.take("com.docker.compose.service", "web");
        facts.take("com.docker.compose.project", "shop");
        assert_eq!((facts.service_name(None), facts.service_namespace()), (Some("web"), Some("shop")));
        assert_eq!((facts.service_instance(), facts.pod(), facts.is_in_pod()), (None, None, false));
    }
}
