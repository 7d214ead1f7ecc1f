//! What was decided about the spans of blocks, as bytes in the database.
//!
//! In: [`BlockChoices`]. Out: bytes, and back. Pure. Called by the cursors. Of a block: its number u64, spans u32, thresholds u32, each
//! u64, and per span u16: 0 left out, 1 kept, from 2 on kept by that threshold. All integers are little-endian.

use agent_core::relay::{Choice, Threshold};

/// A block's number, and what was decided about each of its spans.
pub type BlockChoices = (u64, Vec<Choice>);

/// More thresholds have no code; their spans count as kept for sure.
const THRESHOLDS_MAX: usize = (u16::MAX - 2) as usize;

pub(super) fn encode(blocks: &[BlockChoices]) -> Vec<u8> {
    let mut out = Vec::new();
    for (block, choices) in blocks {
        let thresholds = thresholds(choices);
        out.extend_from_slice(&block.to_le_bytes());
        out.extend_from_slice(&(choices.len() as u32).to_le_bytes());
        out.extend_from_slice(&(thresholds.len() as u32).to_le_bytes());
        thresholds.iter().for_each(|threshold| out.extend_from_slice(&threshold.value().to_le_bytes()));
        choices.iter().for_each(|choice| out.extend_from_slice(&code(*choice, &thresholds).to_le_bytes()));
    }
    out
}

fn thresholds(choices: &[Choice]) -> Vec<Threshold> {
    let of = |choice: &Choice| if let Choice::KeptBy(threshold) = choice { Some(*threshold) } else { None };
    let mut all: Vec<Threshold> = choices.iter().filter_map(of).collect();
    all.sort_unstable();
    all.dedup();
    all.truncate(THRESHOLDS_MAX);
    all
}

fn code(choice: Choice, thresholds: &[Threshold]) -> u16 {
    match choice {
        Choice::LeftOut => 0,
        Choice::Kept => 1,
        Choice::KeptBy(threshold) => thresholds.binary_search(&threshold).map_or(1, |index| index as u16 + 2),
    }
}

/// What is whole of it.
pub(super) fn decode(mut bytes: &[u8]) -> Vec<BlockChoices> {
    let mut blocks = Vec::new();
    while let Some(block) = take_block(&mut bytes) {
        blocks.push(block);
    }
    blocks
}

fn take_block(bytes: &mut &[u8]) -> Option<BlockChoices> {
    let block = u64::from_le_bytes(take(bytes)?);
    let spans = u32::from_le_bytes(take(bytes)?) as usize;
    let count = u32::from_le_bytes(take(bytes)?) as usize;
    if bytes.len() < count.checked_mul(8)?.checked_add(spans.checked_mul(2)?)? {
        return None;
    }
    let thresholds: Vec<u64> = (0..count).map_while(|_| take(bytes).map(u64::from_le_bytes)).collect();
    let choice = |code: u16| match code {
        0 => Choice::LeftOut,
        1 => Choice::Kept,
        at => thresholds.get(usize::from(at) - 2).map_or(Choice::Kept, |it| Choice::KeptBy(Threshold::from_value(*it))),
    };
    Some((block, (0..spans).map_while(|_| take(bytes).map(|code| choice(u16::from_le_bytes(code)))).collect()))
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_survive_the_database() {
        let by = |probability| Choice::KeptBy(Threshold::from_probability(probability));
        let blocks = vec![
            (7, vec![Choice::LeftOut, by(0.5), Choice::Kept, by(0.1), by(0.5)]),
            (9, vec![]),
            (u64::MAX, vec![Choice::LeftOut]),
        ];
        let bytes = encode(&blocks);
        assert_eq!(decode(&bytes), blocks);
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).len() < 3, "cut at {length}");
        }
    }

    #[test]
    fn lengths_that_lie_give_nothing() {
        let mut bytes = encode(&[(1, vec![Choice::Kept; 3])]);
        bytes[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(decode(&bytes), []);
    }
}
