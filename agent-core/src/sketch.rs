//! Durations of many spans in little memory, for percentiles that forget.
//!
//! In: durations. Out: a percentile, at most [`ERROR_PERCENT`] off between [`LEAST_NS`] and [`MOST_NS`]. Called by tail sampling and by
//! the watch for symptoms. A sketch has a fixed size, whatever it is given.

/// How far off a percentile may be, in percent of the duration.
pub const ERROR_PERCENT: f64 = 6.25;
/// Shorter durations are like this one: a microsecond, about.
pub const LEAST_NS: u64 = 1 << 10;
/// Longer ones are like this one: 73 minutes, about.
pub const MOST_NS: u64 = 1 << 42;

/// Each power of two is divided in so many parts, of equal width.
const PARTS_LOG2: u32 = 3;
const PARTS: u64 = 1 << PARTS_LOG2;
const BUCKETS: usize = ((MOST_NS.ilog2() - LEAST_NS.ilog2()) << PARTS_LOG2) as usize + 1;

/// Counts of durations.
#[derive(Clone, Debug)]
pub struct Sketch {
    counts: Box<[u32; BUCKETS]>,
    total: u64,
}

impl Default for Sketch {
    fn default() -> Self {
        Self { counts: Box::new([0; BUCKETS]), total: 0 }
    }
}

impl Sketch {
    /// Adds a duration.
    pub fn add(&mut self, duration_ns: u64) {
        let count = &mut self.counts[bucket(duration_ns)];
        *count = count.saturating_add(1);
        self.total += 1;
    }

    /// How many it has.
    pub fn len(&self) -> u64 {
        self.total
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// Adds all of another.
    pub fn join(&mut self, other: &Self) {
        let pairs = self.counts.iter_mut().zip(other.counts.iter());
        pairs.for_each(|(count, more)| *count = count.saturating_add(*more));
        self.total += other.total;
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.counts.fill(0);
        self.total = 0;
    }

    /// The duration that this part of them, from 0 to 1, does not exceed; nothing if there are none.
    pub fn quantile(&self, part: f64) -> Option<u64> {
        quantile(self.counts.iter().map(|count| u64::from(*count)), self.total, part)
    }
}

/// The durations of the last while: between one and two turns.
#[derive(Clone, Debug, Default)]
pub struct Trailing {
    older: Sketch,
    newer: Sketch,
    turned_ns: u64,
}

impl Trailing {
    /// Adds a duration; what is more than two turns old goes.
    pub fn add(&mut self, duration_ns: u64, now_ns: u64, turn_ns: u64) {
        self.turn(now_ns, turn_ns);
        self.newer.add(duration_ns);
    }

    /// Likewise, all of a sketch.
    pub fn join(&mut self, other: &Sketch, now_ns: u64, turn_ns: u64) {
        self.turn(now_ns, turn_ns);
        self.newer.join(other);
    }

    fn turn(&mut self, now_ns: u64, turn_ns: u64) {
        let age = now_ns.saturating_sub(self.turned_ns);
        if age >= turn_ns {
            std::mem::swap(&mut self.older, &mut self.newer);
            self.newer.clear();
            if age >= turn_ns.saturating_mul(2) {
                self.older.clear();
            }
            self.turned_ns = now_ns;
        }
    }

    /// How many it has.
    pub fn len(&self) -> u64 {
        self.older.len() + self.newer.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a duration is clearly longer than that; not if there are none.
    pub fn is_beyond(&self, part: f64, duration_ns: u64) -> bool {
        self.quantile(part).is_some_and(|quantile| bucket(duration_ns) > bucket(quantile))
    }

    /// As [`Sketch::quantile`].
    pub fn quantile(&self, part: f64) -> Option<u64> {
        let both = self.older.counts.iter().zip(self.newer.counts.iter());
        quantile(both.map(|(older, newer)| u64::from(*older) + u64::from(*newer)), self.len(), part)
    }
}

fn bucket(duration_ns: u64) -> usize {
    let duration = duration_ns.clamp(LEAST_NS, MOST_NS);
    let power = duration.ilog2();
    let part = (duration >> (power - PARTS_LOG2)) & (PARTS - 1);
    ((power - LEAST_NS.ilog2()) << PARTS_LOG2) as usize + part as usize
}

/// The middle of a bucket.
fn middle(bucket: usize) -> u64 {
    let power = LEAST_NS.ilog2() + (bucket as u32 >> PARTS_LOG2);
    let width = 1_u64 << (power - PARTS_LOG2);
    (1 << power) + (bucket as u64 & (PARTS - 1)) * width + width / 2
}

fn quantile(counts: impl Iterator<Item = u64>, total: u64, part: f64) -> Option<u64> {
    // From the first up: the smallest duration is that of rank 1.
    let rank = ((part.clamp(0.0, 1.0) * total as f64).ceil() as u64).max(1);
    let mut seen = 0;
    let found = counts.take(BUCKETS).position(|count| {
        seen += count;
        seen >= rank
    });
    found.filter(|_| total > 0).map(middle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(found: Option<u64>, expected: u64) {
        let found = found.expect("there are some") as f64;
        let off = (found / expected as f64 - 1.0).abs() * 100.0;
        assert!(off <= ERROR_PERCENT, "{found} is {off} % off {expected}");
    }

    #[test]
    fn percentiles_are_near_those_of_the_sorted_list() {
        let mut random = fastrand_like(7);
        let mut all: Vec<u64> =
            (0..20_000).map(|_| 2_000 << (random() % 24)).map(|base| base + random_part(base)).collect();
        let mut sketch = Sketch::default();
        all.iter().for_each(|duration| sketch.add(*duration));
        all.sort_unstable();
        for part in [0.0, 0.01, 0.5, 0.9, 0.99, 1.0] {
            let rank = ((part * all.len() as f64).ceil() as usize).max(1);
            check(sketch.quantile(part), all[rank - 1]);
        }
    }

    /// A few different numbers from each base, without a generator.
    fn random_part(base: u64) -> u64 {
        base / 977 * (base.count_ones() as u64 + base % 613)
    }

    fn fastrand_like(seed: u64) -> impl FnMut() -> u64 {
        let mut state = seed;
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 33
        }
    }

    #[test]
    fn ends_and_nothing() {
        assert_eq!(Sketch::default().quantile(0.5), None);
        assert_eq!(Trailing::default().quantile(0.5), None);
        let mut sketch = Sketch::default();
        sketch.add(0);
        check(sketch.quantile(1.0), LEAST_NS);
        sketch.add(u64::MAX);
        check(sketch.quantile(1.0), MOST_NS);
    }

    #[test]
    fn what_is_two_turns_old_goes() {
        let (mut trailing, turn) = (Trailing::default(), 1_000);
        (0..100).for_each(|_| trailing.add(1_000_000, 10_000, turn));
        check(trailing.quantile(0.99), 1_000_000);
        (0..100).for_each(|_| trailing.add(4_000_000, 11_000, turn));
        assert_eq!(trailing.len(), 200);
        assert_eq!([3_999_999, 4_100_000, 5_000_000].map(|ns| trailing.is_beyond(0.99, ns)), [false, false, true]);
        check(trailing.quantile(0.25), 1_000_000);
        trailing.add(8_000_000, 12_000, turn);
        assert_eq!(trailing.len(), 101);
        check(trailing.quantile(0.25), 4_000_000);
        trailing.add(8_000_000, 20_000, turn);
        assert_eq!(trailing.len(), 1, "after a pause nothing is left");
    }
}
