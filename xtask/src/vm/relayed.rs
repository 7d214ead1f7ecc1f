//! What a sender and a sink in the guest said (`otlp_sender`, `otlp_sink` of the tests' actors): every acknowledged span must be delivered.
use anyhow::{Result, ensure};

/// Spans that were acknowledged, and how often each was taken.
#[derive(Debug, Default)]
pub struct Relayed {
    /// All below were acknowledged.
    pub acknowledged: usize,
    taken: Vec<u32>,
}

impl Relayed {
    /// Adds what was said. A line that is cut, at the end, counts for nothing.
    pub fn add(&mut self, text: &str) {
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        for line in whole.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let number = |at: usize| words.get(at).and_then(|word: &&str| word.parse::<usize>().ok());
            match (words.first(), number(1), number(2)) {
                (Some(&"acknowledged"), Some(all_below), None) => self.acknowledged = self.acknowledged.max(all_below),
                (Some(&"took"), Some(from), Some(to)) => self.take(from, to),
                _ => {}
            }
        }
    }

    fn take(&mut self, from: usize, to: usize) {
        self.taken.resize(self.taken.len().max(to), 0);
        self.taken.iter_mut().take(to).skip(from).for_each(|times| *times += 1);
    }

    /// One sentence, or the first spans that were lost.
    pub fn verdict(&self) -> Result<String> {
        let is_missing = |number: &usize| self.taken.get(*number).is_none_or(|times| *times == 0);
        let missing: Vec<usize> = (0..self.acknowledged).filter(is_missing).collect();
        let some = &missing[..missing.len().min(10)];
        ensure!(
            missing.is_empty(),
            "{} of {} acknowledged spans were lost: {some:?}…",
            missing.len(),
            self.acknowledged
        );
        ensure!(self.acknowledged > 0, "nothing was acknowledged");
        Ok(format!("{} spans acknowledged, 0 lost, {} came twice", self.acknowledged, self.twice()))
    }

    /// How often spans were taken beyond once each.
    pub fn twice(&self) -> u64 {
        self.taken.iter().map(|times| u64::from(times.saturating_sub(1))).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_acknowledged_span_must_be_taken() {
        let mut relayed = Relayed::default();
        relayed.add("ready\nacknowledged 100\ntook 0 60\ntook 50 100\nacknowledged 2");
        assert_eq!(relayed.verdict().unwrap(), "100 spans acknowledged, 0 lost, 10 came twice");
        relayed.add("acknowledged 200\ntook 100 150\ntook 151 200\n");
        assert!(relayed.verdict().unwrap_err().to_string().contains("1 of 200 acknowledged spans were lost: [150]"));
    }

    #[test]
    fn nothing_is_no_success() {
        assert!(Relayed::default().verdict().is_err());
    }
}
