//! Containers and pods: the cgroups of those that a rule names.
//!
//! In: [`Rules`]. Out: folders of cgroup v2, which are then rules like any other. Looked for at start, when the selection changes, and
//! each time that it is followed, since pods come and go.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use agent_core::container::ContainerFacts;

use super::Rules;
use crate::inventory::container;

/// cgroup folders that are entered; a container of Kubernetes is the fourth, twice that if Kubernetes itself runs in a container.
const LEVELS_MAX: usize = 10;

impl Rules {
    /// The folders of the cgroups that are named, each by itself or as that of a container.
    pub fn cgroup_folders(&self) -> Vec<PathBuf> {
        let mut folders = self.cgroups.clone();
        if !self.containers.is_empty() || !self.pods.is_empty() {
            let named = |facts: &ContainerFacts| self.names(facts);
            cgroup_mounts().iter().for_each(|mount| look(mount, mount, LEVELS_MAX, &named, &mut folders));
        }
        folders
    }

    fn names(&self, facts: &ContainerFacts) -> bool {
        let matching = |pattern: &str, text: &str| glob::Pattern::new(pattern).is_ok_and(|glob| glob.matches(text));
        let pod = facts.pod();
        self.containers.iter().any(|pattern| facts.is_named(|name| matching(pattern, name), pattern))
            || self.pods.iter().any(|pattern| pod.as_ref().is_some_and(|pod| matching(pattern, pod)))
    }
}

/// Where cgroup v2 is mounted.
pub(in crate::kernel) fn cgroup_mounts() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mount = |line: &str| {
        let mut words = line.split(' ').skip(1);
        let (path, kind) = (words.next()?, words.next()?);
        (kind == "cgroup2").then(|| path.into())
    };
    mounts.lines().filter_map(mount).collect()
}

fn look(
    mount: &Path,
    folder: &Path,
    levels: usize,
    named: &impl Fn(&ContainerFacts) -> bool,
    found: &mut Vec<PathBuf>,
) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        // Without folders in it, and no container: most are.
        let has_folders = fs::symlink_metadata(&path).is_ok_and(|folder| folder.nlink() != 2);
        let below = path.strip_prefix(mount).unwrap_or(&path).to_string_lossy();
        // What is below a container that is named is named with it.
        match container(&format!("/{below}")) {
            Some(facts) if named(&facts) => found.push(path),
            // Containers run in containers.
            _ if levels > 0 && has_folders => look(mount, &path, levels - 1, named, found),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_named_by_name_and_pods_by_namespace_and_name() {
        let facts = ContainerFacts {
            id: "3a1f0c9d5e7b2486a0c1e2d3f4b5a69788796a5b4c3d2e1f00112233445566aa".into(),
            name: Some("server".into()),
            namespace: Some("shop".into()),
            pod_name: Some("checkout-7d9f8b6c5d-x2x4z".into()),
            ..ContainerFacts::default()
        };
        let check = |containers: &[&str], pods: &[&str], expected| {
            let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
            let rules = Rules { containers: own(containers), pods: own(pods), ..Rules::default() };
            assert_eq!(rules.names(&facts), expected, "{containers:?} {pods:?}");
        };
        check(&["server"], &[], true);
        check(&["serv*"], &[], true);
        check(&["3a1f0c9d5e7b"], &[], true);
        check(&["checkout"], &["shop/cart-*"], false);
        check(&[], &["shop/checkout-*"], true);
        check(&[], &["*/checkout-*"], true);
        check(&[], &["shop/*"], true);
        check(&[], &["checkout-*"], false);
        check(&[], &[], false);
    }

    #[test]
    fn a_pod_that_is_not_known_is_named_by_no_pattern() {
        let facts = ContainerFacts { id: "3a1f".into(), ..ContainerFacts::default() };
        let rules = Rules { containers: vec!["*".into()], pods: vec!["*".into()], ..Rules::default() };
        assert!(!rules.names(&facts));
    }
}
