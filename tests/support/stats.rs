//! The few statistics that tests and the benchmark state.

/// The value below which `share` (0 to 1) of the values lie, by nearest rank. Panics on an empty list.
pub fn percentile(values: &[u64], share: f64) -> u64 {
    assert!(!values.is_empty(), "no values to take a percentile of");
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// The middle value.
pub fn median(values: &[u64]) -> u64 {
    percentile(values, 0.5)
}

/// The middle value of measurements.
pub fn median_f64(values: &[f64]) -> f64 {
    assert!(!values.is_empty(), "no values to take a median of");
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// Fails unless `seen` is within `share` of `truth`; `what` says of what.
pub fn assert_within(what: &str, seen: u64, truth: u64, share: f64) {
    let allowed = truth as f64 * share;
    let difference = seen.abs_diff(truth) as f64;
    assert!(
        difference <= allowed,
        "{what}: {:.3} ms seen, {:.3} ms is the truth, {:.1} % apart, {:.0} % allowed",
        seen as f64 / 1e6,
        truth as f64 / 1e6,
        difference / truth.max(1) as f64 * 100.0,
        share * 100.0
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentile_takes_the_nearest_rank() {
        let values: Vec<u64> = (1..=100).rev().collect();
        assert_eq!(percentile(&values, 0.5), 50);
        assert_eq!(percentile(&values, 0.99), 99);
        assert_eq!(percentile(&values, 1.0), 100);
        assert_eq!(percentile(&[7], 0.01), 7);
    }

    #[test]
    #[should_panic(expected = "11.0 % apart")]
    fn a_value_outside_the_share_fails() {
        assert_within("x", 111, 100, 0.1);
    }
}
