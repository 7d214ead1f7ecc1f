//! Consistent probability sampling, as the OpenTelemetry specification says ("TraceState: Probability Sampling").
//!
//! In: a trace id, the W3C tracestate, a rejection threshold. Out: whether the span is kept, and the tracestate that says with which
//! probability. All who sample by the same rule keep the same traces, and 1 / probability, the adjusted count, stays exact through
//! any number of samplers. Called by [`super::Relay`] and [`super::Shape`].
//!
//! Randomness is `rv`, else the 56 rightmost bits of the trace id. An incoming `th` is never made less strict. A `th` that the
//! randomness contradicts says nothing: it is taken out, and none is put in its place, since the probability is then unknown.

use std::fmt::{self, Write};

/// Values of randomness and thresholds: 56 bits.
const VALUES: u64 = 1 << 56;
/// W3C trace context, 3.3.1.1: members of a tracestate.
const MEMBERS_MAX: usize = 32;

/// A trace is kept if its randomness, 56 bits, is at least this.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Threshold(u64);

impl Threshold {
    /// Keeps everything.
    pub const ALWAYS: Self = Self(0);
    /// Keeps nothing.
    pub const NEVER: Self = Self(VALUES);

    /// The nearest to a probability; anything below 0, and no number, is 0, anything above 1 is 1.
    pub fn from_probability(probability: f64) -> Self {
        let kept = if probability > 0.0 { probability.min(1.0) } else { 0.0 };
        Self(VALUES - ((kept * VALUES as f64).round() as u64).min(VALUES))
    }

    /// The probability of being kept.
    pub fn probability(self) -> f64 {
        (VALUES - self.0) as f64 / VALUES as f64
    }

    /// How many spans one that is kept stands for; nothing if none is kept.
    pub fn adjusted_count(self) -> Option<f64> {
        (self != Self::NEVER).then(|| 1.0 / self.probability())
    }

    /// Whether a trace of this randomness (56 bits) is kept.
    pub(crate) fn keeps(self, randomness: u64) -> bool {
        randomness >= self.0
    }

    /// As a number, below 2^56 unless it is [`Threshold::NEVER`].
    pub fn value(self) -> u64 {
        self.0
    }

    /// From such a number; one that is too large keeps nothing.
    pub fn from_value(value: u64) -> Self {
        Self(value.min(VALUES))
    }

    /// As in `th`: the digits, and how many count. [`Threshold::NEVER`] has none there; it reads as the strictest that has.
    fn digits(self) -> ([u8; 14], usize) {
        let value = self.0.min(VALUES - 1);
        let digits = std::array::from_fn(|place| b"0123456789abcdef"[(value >> (4 * (13 - place)) & 15) as usize]);
        (digits, digits.iter().rposition(|digit| *digit != b'0').unwrap_or(0) + 1)
    }

    /// The value of `th`: 1 to 14 hexadecimal digits, without trailing zeros.
    fn parse(text: &[u8]) -> Option<Self> {
        if text.is_empty() || text.len() > 14 {
            return None;
        }
        hex(text).map(|value| Self(value << (4 * (14 - text.len()))))
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (digits, count) = self.digits();
        digits[..count].iter().try_for_each(|digit| f.write_char(char::from(*digit)))
    }
}

/// What becomes of a span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sampled {
    /// Kept, its tracestate as it is.
    Kept,
    /// Kept, with this tracestate.
    KeptWith(Vec<u8>),
    /// Not.
    Not,
}

/// Decides by trace id and tracestate.
pub(crate) fn sample(threshold: Threshold, trace_id: &[u8], trace_state: &[u8]) -> Sampled {
    if threshold == Threshold::ALWAYS {
        return Sampled::Kept;
    }
    let state = TraceState::read(trace_state);
    let Some(randomness) = state.rv.or_else(|| by_trace_id(trace_id)) else { return Sampled::Not };
    let contradicted = state.th.is_some_and(|incoming| randomness < incoming.0);
    let incoming = state.th.filter(|_| !contradicted);
    if randomness < threshold.0 {
        return Sampled::Not;
    }
    match incoming {
        _ if contradicted => Sampled::KeptWith(state.with(None)),
        Some(incoming) if incoming >= threshold => Sampled::Kept,
        _ => Sampled::KeptWith(state.with(Some(threshold))),
    }
}

/// The tracestate of a span that is kept by a decision with this threshold, made for its whole trace. If the span's own randomness
/// contradicts it, or what came does, the probability is unknown and none is told.
pub(crate) fn told(threshold: Threshold, trace_id: &[u8], trace_state: &[u8]) -> Option<Vec<u8>> {
    match sample(threshold, trace_id, trace_state) {
        Sampled::Kept => None,
        Sampled::KeptWith(state) => Some(state),
        Sampled::Not => untold(trace_state),
    }
}

/// The tracestate without a `th`, if it has one: the span is kept with a probability that nobody knows.
pub(crate) fn untold(trace_state: &[u8]) -> Option<Vec<u8>> {
    let state = TraceState::read(trace_state);
    state.has_th().then(|| state.with(None))
}

/// What decides about a trace: 56 bits; nothing if neither tracestate nor trace id has them.
pub(crate) fn randomness(trace_id: &[u8], trace_state: &[u8]) -> Option<u64> {
    TraceState::read(trace_state).rv.or_else(|| by_trace_id(trace_id))
}

/// The 56 rightmost bits.
fn by_trace_id(trace_id: &[u8]) -> Option<u64> {
    let last: [u8; 8] = *trace_id.last_chunk()?;
    Some(u64::from_be_bytes(last) & (VALUES - 1))
}

fn hex(text: &[u8]) -> Option<u64> {
    text.iter().try_fold(0, |value, byte| match byte {
        b'0'..=b'9' => Some(value << 4 | u64::from(byte - b'0')),
        b'a'..=b'f' => Some(value << 4 | u64::from(byte - b'a' + 10)),
        _ => None,
    })
}

/// A tracestate with its `ot` member taken apart.
#[derive(Debug, Default)]
struct TraceState<'a> {
    whole: &'a [u8],
    ot: Option<&'a [u8]>,
    th: Option<Threshold>,
    rv: Option<u64>,
}

impl<'a> TraceState<'a> {
    fn read(whole: &'a [u8]) -> Self {
        let mut state = Self { whole, ..Self::default() };
        state.ot = members(whole).find_map(|member| member.strip_prefix(b"ot="));
        for field in state.ot.unwrap_or_default().split(|byte| *byte == b';') {
            if let Some(value) = field.strip_prefix(b"th:") {
                state.th = Threshold::parse(value);
            } else if let Some(value) = field.strip_prefix(b"rv:") {
                state.rv = if value.len() == 14 { hex(value) } else { None };
            }
        }
        state
    }

    fn has_th(&self) -> bool {
        self.ot.unwrap_or_default().split(|byte| *byte == b';').any(|field| field.starts_with(b"th:"))
    }

    /// The same with another `th`, its member first, since it was changed (W3C trace context, 3.5).
    fn with(&self, th: Option<Threshold>) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.whole.len() + 24);
        if let Some((digits, count)) = th.map(Threshold::digits) {
            out.extend_from_slice(b"ot=th:");
            out.extend_from_slice(&digits[..count]);
        }
        if self.whole.is_empty() {
            return out;
        }
        let others = self.ot.unwrap_or_default().split(|byte| *byte == b';');
        for field in others.filter(|field| !field.is_empty() && !field.starts_with(b"th:")) {
            out.extend_from_slice(if out.is_empty() { b"ot=" } else { b";" });
            out.extend_from_slice(field);
        }
        let others = members(self.whole).filter(|member| !member.is_empty() && !member.starts_with(b"ot="));
        for member in others.take(MEMBERS_MAX - usize::from(!out.is_empty())) {
            if !out.is_empty() {
                out.push(b',');
            }
            out.extend_from_slice(member);
        }
        out
    }
}

fn members(state: &[u8]) -> impl Iterator<Item = &[u8]> {
    state.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace_id(randomness: u64) -> [u8; 16] {
        let mut id = [0xab; 16];
        id[8..].copy_from_slice(&(0xff << 56 | randomness).to_be_bytes());
        id
    }

    fn check(probability: f64, randomness: u64, state: &str, expected: Option<&str>) {
        let sampled = sample(Threshold::from_probability(probability), &trace_id(randomness), state.as_bytes());
        let found = match sampled {
            Sampled::Kept => Some(state.to_owned()),
            Sampled::KeptWith(state) => Some(String::from_utf8(state).unwrap()),
            Sampled::Not => None,
        };
        assert_eq!(found.as_deref(), expected, "{probability} {randomness:x} {state}");
    }

    #[test]
    fn thresholds_are_written_as_in_the_specification() {
        for (probability, text) in
            [(1.0, "0"), (0.5, "8"), (0.25, "c"), (0.1, "e6666666666666"), (0.01, "fd70a3d70a3d71")]
        {
            let threshold = Threshold::from_probability(probability);
            assert_eq!(threshold.to_string(), text);
            assert_eq!(Threshold::parse(text.as_bytes()), Some(threshold));
        }
        assert_eq!(Threshold::from_probability(0.0), Threshold::NEVER);
        assert_eq!(Threshold::from_probability(f64::NAN), Threshold::NEVER);
        assert_eq!(Threshold::from_probability(7.0), Threshold::ALWAYS);
        assert_eq!(Threshold::from_probability(0.25).adjusted_count(), Some(4.0));
        for wrong in ["", "8A", "x", "123456789abcdef"] {
            assert_eq!(Threshold::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn the_rightmost_bits_decide() {
        check(0.5, 1 << 55, "", Some("ot=th:8"));
        check(0.5, (1 << 55) - 1, "", None);
        check(1.0, 0, "", Some(""));
        check(0.0, VALUES - 1, "", None);
    }

    #[test]
    fn explicit_randomness_counts_before_the_trace_id() {
        check(0.5, 0, "ot=rv:80000000000000", Some("ot=th:8;rv:80000000000000"));
        check(0.5, VALUES - 1, "ot=rv:7fffffffffffff", None);
        check(0.5, 1 << 55, "ot=rv:8", Some("ot=th:8;rv:8"));
    }

    #[test]
    fn an_incoming_threshold_is_never_made_less_strict() {
        check(0.5, VALUES - 1, "ot=th:c", Some("ot=th:c"));
        check(0.25, VALUES - 1, "vendor=1,ot=th:8;x:y , other=2", Some("ot=th:c;x:y,vendor=1,other=2"));
        check(0.25, 0x90 << 48, "ot=th:8", None);
    }

    #[test]
    fn a_threshold_that_cannot_be_true_is_taken_out() {
        check(0.5, 0x90 << 48, "ot=th:c", Some(""));
        check(0.5, 0x90 << 48, "a=b,ot=th:c;p:1", Some("ot=p:1,a=b"));
        check(1.0, 0, "ot=th:c", Some("ot=th:c"));
    }

    #[test]
    fn a_probability_that_is_unknown_is_not_told() {
        let text = |state: Option<Vec<u8>>| state.map(|state| String::from_utf8(state).unwrap());
        assert_eq!(untold(b"a=b,ot=rv:80000000000000"), None);
        assert_eq!(text(untold(b"a=b,ot=th:8;rv:80000000000000")).as_deref(), Some("ot=rv:80000000000000,a=b"));
        assert_eq!(text(untold(b"ot=th:nonsense")).as_deref(), Some(""));
        let half = Threshold::from_probability(0.5);
        assert_eq!(text(told(half, &trace_id(1 << 55), b"")).as_deref(), Some("ot=th:8"));
        assert_eq!(text(told(half, &trace_id(0), b"ot=th:0")).as_deref(), Some(""));
        assert_eq!(told(half, &trace_id(0), b""), None);
    }

    #[test]
    fn there_are_at_most_32_members() {
        let full: Vec<_> = (0..32).map(|number| format!("v{number}=1")).collect();
        let expected = format!("ot=th:8,{}", full[..31].join(","));
        check(0.5, VALUES - 1, &full.join(","), Some(&expected));
    }
}
