//! Facts about what runs on the host, gathered from outside the kernel programs.

use std::{
    sync::{Arc, LazyLock, Mutex},
    time::Instant,
};

use agent_core::container::ContainerFacts;

pub mod process;
pub mod reader;
pub mod runtime;

use self::runtime::Runtimes;
use crate::capture::lock;

/// Shared by those who ask, so that each container is read once.
static RUNTIMES: LazyLock<Mutex<Runtimes>> = LazyLock::new(Mutex::default);

/// The container whose cgroup this is, or that of something in it.
pub fn container(cgroup: &str) -> Option<Arc<ContainerFacts>> {
    lock(&RUNTIMES).of_cgroup(cgroup, Instant::now())
}
