//! How many descriptors the agent may have: each attached program takes one.

/// Raises the bound as far as it goes without a privilege. The default, 1,024, is for programs that use `select(2)`.
pub(super) fn raise() {
    let Some(mut limit) = current() else { return };
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is valid for reads. If it is refused the bound stays as it was.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
}

/// The bound.
pub(super) fn descriptors() -> usize {
    current().map_or(1024, |limit| usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX))
}

fn current() -> Option<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for writes.
    (unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0).then_some(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_what_may_be_had() {
        let most = current().unwrap().rlim_max;
        raise();
        assert_eq!(u64::try_from(descriptors()).unwrap(), most);
    }
}
