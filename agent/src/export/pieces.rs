//! A request in the pieces that it has in the log, which are sent one after the other: joining them would copy each byte once more.

use std::sync::Arc;

use bytes::{Buf, Bytes};

/// Bytes in pieces. Clones are the same bytes. As a [`Buf`] it is what of them is not written yet.
#[derive(Clone, Debug, Default)]
pub struct Pieces {
    /// None is empty.
    pieces: Arc<[Bytes]>,
    /// The piece that is next.
    next: usize,
    /// How much of it is written.
    written: usize,
    left: usize,
}

impl Pieces {
    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.left
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// The pieces.
    pub fn iter(&self) -> impl Iterator<Item = Bytes> {
        let pieces = self.pieces[self.next..].iter().enumerate();
        pieces.map(|(place, piece)| if place == 0 { piece.slice(self.written..) } else { piece.clone() })
    }

    /// All in one; a copy only if there are several.
    pub fn joined(&self) -> Bytes {
        match &self.pieces[self.next..] {
            [one] => one.slice(self.written..),
            _ => self.to_vec().into(),
        }
    }

    /// A copy of all.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.left);
        self.iter().for_each(|piece| all.extend_from_slice(&piece));
        all
    }
}

impl From<Vec<Bytes>> for Pieces {
    fn from(mut pieces: Vec<Bytes>) -> Self {
        pieces.retain(|piece| !piece.is_empty());
        let left = pieces.iter().map(Bytes::len).sum();
        Self { pieces: pieces.into(), next: 0, written: 0, left }
    }
}

impl From<Bytes> for Pieces {
    fn from(bytes: Bytes) -> Self {
        vec![bytes].into()
    }
}

impl From<Vec<u8>> for Pieces {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl PartialEq for Pieces {
    fn eq(&self, other: &Self) -> bool {
        self.left == other.left && self.joined() == other.joined()
    }
}

impl Eq for Pieces {}

impl Buf for Pieces {
    fn remaining(&self) -> usize {
        self.left
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.get(self.next).map_or(&[], |piece| &piece[self.written..])
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [std::io::IoSlice<'a>]) -> usize {
        let left = self.pieces.get(self.next..).unwrap_or_default();
        for (place, (piece, slice)) in left.iter().zip(&mut *into).enumerate() {
            *slice = std::io::IoSlice::new(if place == 0 { &piece[self.written..] } else { piece });
        }
        left.len().min(into.len())
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.left, "no more than there is");
        self.left -= count;
        while let Some(piece) = self.pieces.get(self.next) {
            let rest = piece.len() - self.written;
            if count < rest {
                self.written += count;
                return;
            }
            count -= rest;
            (self.next, self.written) = (self.next + 1, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use super::*;

    #[test]
    fn pieces_are_their_bytes_wherever_they_are_cut_and_however_they_are_written() {
        let all = b"one, two and three";
        for cuts in [vec![], vec![4], vec![4, 4, 8], vec![0, 9, 17]] {
            let ends = cuts.iter().copied().chain([all.len()]);
            let begins = [0].into_iter().chain(cuts.iter().copied());
            let pieces: Vec<Bytes> = begins.zip(ends).map(|(from, to)| Bytes::from_static(&all[from..to])).collect();
            let pieces = Pieces::from(pieces);
            assert_eq!((pieces.len(), &pieces.joined()[..], pieces.to_vec()), (all.len(), &all[..], all.to_vec()));
            for step in 1..=all.len() {
                let (mut left, mut written) = (pieces.clone(), Vec::new());
                while left.has_remaining() {
                    let mut slices = [IoSlice::new(&[]); 3];
                    let count = left.chunks_vectored(&mut slices);
                    let shown: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
                    assert!(shown.starts_with(left.chunk()) && left.joined().starts_with(&shown), "{cuts:?} {step}");
                    let taken = step.min(shown.len());
                    written.extend_from_slice(&shown[..taken]);
                    left.advance(taken);
                    assert_eq!([&written[..], &left.to_vec()].concat(), all, "{cuts:?} {step}");
                }
                assert!(left.is_empty() && left.chunk().is_empty() && left.joined().is_empty());
            }
        }
    }

    #[test]
    fn nothing_has_no_pieces() {
        let nothing = Pieces::from(Bytes::new());
        assert!(nothing.is_empty() && nothing.iter().next().is_none());
        assert_eq!(nothing, Pieces::from(Vec::<Bytes>::new()));
    }
}
