//! What a response's body says of what was asked for: that it failed, which model answered, and how many tokens that took.
//!
//! In: the body's bytes as they come, as JSON or as server-sent events. Out: an [`Answered`]. Called through [`super::Scan`]. Numbers count
//! only once the object that they are in is complete, and of an event only once all of it is: nothing is told that a cut might have
//! made smaller.

use super::{
    asked::MODEL_BYTES_MAX,
    json::{Scanner, Value, Visit},
    key::Key,
    sse::{Events, Step},
    text::Text,
};

/// Longest name of an error that is told.
const ERROR_BYTES_MAX: usize = 64;

/// What the body says; which of it counts depends on what was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answered {
    /// `model`, at most 128 bytes.
    pub model: Option<String>,
    /// Tokens of the prompt, those from a cache included.
    pub input_tokens: Option<u64>,
    /// Tokens of the answer.
    pub output_tokens: Option<u64>,
    /// It has an `error` that is an object.
    pub failed: bool,
    /// The `type` of that error, if it is a word of at most 64 bytes.
    pub error_type: Option<String>,
    /// The `code` of that error in a response of JSON-RPC.
    pub rpc_code: Option<i64>,
    /// It has `errors`, and at least one (GraphQL).
    pub errors: bool,
    /// Its `data` is there and not null.
    pub has_data: bool,
    /// All of a body of JSON was seen.
    pub whole: bool,
    /// Of events: the one was seen that says that it is the last (`[DONE]`).
    pub said_last: bool,
}

/// A response's body on its way.
#[derive(Debug)]
pub(super) struct ResponseScan {
    scanner: Scanner,
    gathered: Gathered,
    /// Of a body of events: where it is, and what the complete ones said.
    events: Option<(Events, Gathered)>,
    last: Last,
}

/// The event that is the last one: its data is `[DONE]`.
#[derive(Debug)]
struct Last {
    /// So many bytes of it are behind the data's begin; `None`: this is another one.
    matched: Option<usize>,
    seen: bool,
}

impl Last {
    fn begin(&mut self) {
        self.seen |= self.matched == Some(Self::DATA.len());
        self.matched = Some(0);
    }

    fn data(&mut self, data: &[u8]) {
        let rest = self.matched.map_or(&[][..], |matched| &Self::DATA[matched..]);
        self.matched = self.matched.filter(|_| rest.starts_with(data)).map(|matched| matched + data.len());
    }

    /// With the line's end, by which lines of data are joined.
    const DATA: &[u8] = b"[DONE]\n";
}

impl ResponseScan {
    pub fn new(of_events: bool) -> Self {
        let events = of_events.then(Default::default);
        let last = Last { matched: Some(0), seen: false };
        Self { scanner: Scanner::default(), gathered: Gathered::default(), events, last }
    }

    /// The next bytes; answers whether more are wanted.
    pub fn feed(&mut self, mut bytes: &[u8]) -> bool {
        let Some((events, sum)) = &mut self.events else {
            self.scanner.feed(bytes, &mut self.gathered);
            return !self.scanner.is_broken();
        };
        while let Some(step) = events.next(&mut bytes) {
            match step {
                Step::Data(data) => {
                    self.scanner.feed(data, &mut self.gathered);
                    self.last.data(data);
                }
                Step::End => {
                    self.last.begin();
                    if std::mem::take(&mut self.scanner).is_done() {
                        sum.add(&self.gathered);
                    }
                    self.gathered = Gathered::default();
                }
            }
        }
        true
    }

    /// Bytes that were not captured; answers whether it can go on behind them.
    pub fn skip(&mut self) -> bool {
        let Some((events, sum)) = &mut self.events else { return false };
        events.skip();
        self.scanner.feed(b"\0", &mut self.gathered);
        self.last.matched = None;
        // Later ones may have said more.
        sum.usage.output = None;
        true
    }

    /// What it said.
    pub fn answered(&self) -> Answered {
        let (said, whole) = match &self.events {
            Some((_, sum)) => (sum, false),
            None => (&self.gathered, self.scanner.is_done()),
        };
        let cut_short = self.events.is_none() && self.scanner.is_broken();
        if cut_short {
            // What is no JSON says nothing.
            return Answered::default();
        }
        let rpc_code = said.code.filter(|_| said.jsonrpc.bytes() == Some(b"2.0"));
        Answered {
            model: said.model.word(b"._-:/@+").map(str::to_owned),
            input_tokens: said.usage.input(),
            output_tokens: said.usage.output,
            failed: said.failed,
            error_type: said.error_type.word(b"._-").map(str::to_owned),
            rpc_code,
            errors: said.errors,
            has_data: said.has_data,
            whole,
            said_last: self.last.seen,
        }
    }
}

/// What the names near the top lead to.
#[derive(Debug, Default)]
struct Gathered {
    jsonrpc: Text<8>,
    model: Text<MODEL_BYTES_MAX>,
    /// Of the object in progress.
    pending: Usage,
    usage: Usage,
    failed: bool,
    error_type: Text<ERROR_BYTES_MAX>,
    code: Option<i64>,
    errors: bool,
    has_data: bool,
}

impl Gathered {
    /// Takes what a later event adds.
    fn add(&mut self, later: &Self) {
        if later.model.is_ended() {
            self.model = later.model;
        }
        self.usage.add(&later.usage);
        if later.failed {
            (self.failed, self.error_type, self.code, self.jsonrpc) =
                (true, later.error_type, later.code, later.jsonrpc);
        }
        self.errors |= later.errors;
        self.has_data |= later.has_data;
    }

    /// The text that a path leads to.
    fn text(&mut self, path: &[Key], apply: impl FnOnce(&mut dyn Keep)) {
        match path {
            [Key::Model] | [Key::Message | Key::Response, Key::Model] => apply(&mut self.model),
            [Key::Jsonrpc] => apply(&mut self.jsonrpc),
            [Key::Error, Key::Type] => apply(&mut self.error_type),
            _ => {}
        }
    }
}

/// A [`Text`] of any length.
trait Keep {
    fn begin(&mut self);
    fn piece(&mut self, bytes: &[u8]);
    fn finish(&mut self);
}

impl<const N: usize> Keep for Text<N> {
    fn begin(&mut self) {
        self.clear();
    }

    fn piece(&mut self, bytes: &[u8]) {
        self.push(bytes);
    }

    fn finish(&mut self) {
        self.end();
    }
}

impl Visit for Gathered {
    fn value(&mut self, path: &[Key], value: Value<'_>) {
        match (path, value) {
            (_, Value::Text) => {
                self.text(path, |text| text.begin());
                self.has_data |= path == [Key::Data];
            }
            ([Key::Usage] | [Key::Message | Key::Response, Key::Usage], Value::Object) => {
                self.pending = Usage::default()
            }
            ([Key::Usage] | [Key::Response, Key::Usage], Value::End) => self.usage.add(&self.pending),
            // How many tokens the answer will have is not known where a message begins.
            ([Key::Message, Key::Usage], Value::End) => {
                self.usage.add(&Usage { output: None, ..self.pending });
            }
            ([Key::Usage, key] | [Key::Message | Key::Response, Key::Usage, key], Value::Number(number)) => {
                self.pending.set(*key, number);
            }
            ([Key::Error], Value::Object) => self.failed = true,
            ([Key::Error, Key::Code], Value::Number(number)) => self.code = number.parse().ok(),
            ([Key::Errors], Value::Element) => self.errors = true,
            ([Key::Data], Value::Object | Value::Array | Value::Number(_) | Value::Truth) => self.has_data = true,
            _ => {}
        }
    }

    fn piece(&mut self, path: &[Key], bytes: &[u8]) {
        self.text(path, |text| text.piece(bytes));
    }

    fn text_end(&mut self, path: &[Key]) {
        self.text(path, |text| text.finish());
    }
}

/// Numbers of tokens, as providers tell them.
#[derive(Clone, Copy, Debug, Default)]
struct Usage {
    input: Option<u64>,
    /// Anthropic's, which `input` does not include.
    cached: [Option<u64>; 2],
    output: Option<u64>,
}

impl Usage {
    fn set(&mut self, key: Key, number: &str) {
        let place = match key {
            Key::PromptTokens | Key::InputTokens => &mut self.input,
            Key::CompletionTokens | Key::OutputTokens => &mut self.output,
            Key::CacheCreationInputTokens => &mut self.cached[0],
            Key::CacheReadInputTokens => &mut self.cached[1],
            _ => return,
        };
        *place = number.parse().ok();
    }

    fn add(&mut self, later: &Self) {
        self.input = later.input.or(self.input);
        self.output = later.output.or(self.output);
        for (known, later) in self.cached.iter_mut().zip(later.cached) {
            *known = later.or(*known);
        }
    }

    /// Semantic conventions for Anthropic: what comes from a cache, or goes there, is input too.
    fn input(&self) -> Option<u64> {
        self.cached.into_iter().flatten().try_fold(self.input?, u64::checked_add)
    }
}
