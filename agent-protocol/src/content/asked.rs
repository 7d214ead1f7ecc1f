//! What a request's body asks for: an operation of GraphQL, a method of JSON-RPC, an answer of a language model.
//!
//! In: the body's bytes as they come. Out: an [`Asked`]. Called through [`super::Scan`]. A path alone proves nothing, and neither does a
//! body that looks a little like one of them: see [`RequestScan::asked`].

use super::{
    document::{Document, NAME_BYTES_MAX, OperationType},
    endpoint::{Endpoint, provider},
    json::{Scanner, Value, Visit},
    key::Key,
    text::Text,
};

/// Longest name of a model that is told.
pub(super) const MODEL_BYTES_MAX: usize = 128;
/// Longest name of a method that is told.
const METHOD_BYTES_MAX: usize = 128;
/// Numbers of requests are told up to this many digits, none with a fraction.
const ID_BYTES_MAX: usize = 15;

/// Most memory of an [`Asked`] beside itself.
pub(crate) const ASKED_BYTES_MAX: usize = METHOD_BYTES_MAX + ID_BYTES_MAX;
const _: () = assert!(ASKED_BYTES_MAX >= MODEL_BYTES_MAX && ASKED_BYTES_MAX >= NAME_BYTES_MAX);

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// GraphQL over HTTP: an operation.
    GraphQl {
        /// What it does, if that is known: of several operations, one must be named.
        kind: Option<OperationType>,
        /// Its name (at most 64 bytes), if it has one.
        name: Option<String>,
        /// The document was cut and none is named: kind and name are those of the first, and another may follow and be meant.
        inferred: bool,
    },
    /// JSON-RPC 2.0 over HTTP: a method.
    JsonRpc {
        /// Its name (at most 128 bytes), if it is a word.
        method: Option<String>,
        /// The request's number, if it has one of at most 15 digits.
        id: Option<String>,
    },
    /// A language model's answer, or embeddings.
    GenAi {
        /// By the semantic conventions: `chat`, `text_completion`, `embeddings`.
        operation: &'static str,
        /// The model (at most 128 bytes), if it was seen.
        model: Option<String>,
        /// Whose API it is, where the host says so.
        provider: Option<&'static str>,
    },
}

/// What a request's head says that matters for its body.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Target<'a> {
    /// The path.
    pub path: &'a str,
    /// The host, with or without a port.
    pub host: Option<&'a str>,
    /// Whether it names a version of Anthropic's API.
    pub anthropic: bool,
}

/// A request's body on its way.
#[derive(Debug)]
pub(super) struct RequestScan {
    scanner: Scanner,
    gathered: Gathered,
    endpoint: Option<Endpoint>,
    anthropic: bool,
    provider: Option<&'static str>,
}

impl RequestScan {
    pub fn new(target: Target<'_>) -> Self {
        Self {
            scanner: Scanner::default(),
            gathered: Gathered::default(),
            endpoint: Endpoint::of(target.path),
            anthropic: target.anthropic,
            provider: target.host.and_then(provider),
        }
    }

    /// The next bytes; answers whether more are wanted.
    pub fn feed(&mut self, bytes: &[u8]) -> bool {
        self.scanner.feed(bytes, &mut self.gathered);
        !self.scanner.is_broken()
    }

    /// What it was; `None` if it was nothing that is known.
    pub fn asked(&self) -> Option<Asked> {
        // What is no JSON is none of these, whatever it began with.
        if self.scanner.is_broken() {
            return None;
        }
        let whole = self.scanner.is_done();
        let gathered = &self.gathered;
        gathered.json_rpc().or_else(|| gathered.graphql()).or_else(|| self.gen_ai(whole))
    }

    /// Path, header and body must agree. The model may be named by the path (Azure), or behind what was captured.
    fn gen_ai(&self, whole: bool) -> Option<Asked> {
        let Gathered { model, messages, input, prompt, max_tokens, .. } = &self.gathered;
        let endpoint = self.endpoint?;
        let model = model.word(b"._-:/@+");
        let has_shape = match endpoint {
            Endpoint::ChatCompletions => *messages,
            Endpoint::Completions => *prompt && (model.is_some() || !whole),
            Endpoint::Embeddings => *input && (model.is_some() || !whole),
            Endpoint::Responses => *input && model.is_some(),
            Endpoint::Messages => *messages && self.anthropic && (*max_tokens || !whole),
        };
        let (operation, provider) = (endpoint.operation(), self.provider);
        has_shape.then(|| Asked::GenAi { operation, model: model.map(str::to_owned), provider })
    }
}

/// What the names at the top lead to.
#[derive(Debug, Default)]
struct Gathered {
    jsonrpc: Text<8>,
    method: Text<METHOD_BYTES_MAX>,
    id: Text<ID_BYTES_MAX>,
    /// `params` is what JSON-RPC does not allow there.
    unlike_json_rpc: bool,
    query: Option<Document>,
    query_ended: bool,
    operation_name: Text<NAME_BYTES_MAX>,
    /// `variables` or `operationName` is what GraphQL over HTTP does not allow there.
    unlike_graphql: bool,
    model: Text<MODEL_BYTES_MAX>,
    messages: bool,
    input: bool,
    prompt: bool,
    max_tokens: bool,
}

impl Gathered {
    /// JSON-RPC 2.0, section 4: version and method, and parameters that are an array or an object.
    fn json_rpc(&self) -> Option<Asked> {
        let is = self.jsonrpc.bytes() == Some(b"2.0") && self.method.is_ended() && !self.unlike_json_rpc;
        let method = self.method.word(b"._-/:$").map(str::to_owned);
        is.then(|| Asked::JsonRpc { method, id: self.id.word(b"-").map(str::to_owned) })
    }

    /// GraphQL over HTTP: a text that reads as a document with an operation.
    fn graphql(&self) -> Option<Asked> {
        let document = self.query.as_ref().filter(|document| document.is_document(self.query_ended))?;
        let wanted = self.operation_name.word(b"_");
        let meant = match wanted {
            Some(_) => document.operations().find(|operation| operation.name.word(b"_") == wanted),
            None => document.operations().next().filter(|_| document.count() == 1),
        };
        let name = wanted.or_else(|| meant?.name.word(b"_")).map(str::to_owned);
        let inferred = wanted.is_none() && meant.is_some() && !self.query_ended;
        let asked = Asked::GraphQl { kind: meant.map(|meant| meant.kind), name, inferred };
        (!self.unlike_graphql).then_some(asked)
    }
}

impl Visit for Gathered {
    fn value(&mut self, path: &[Key], value: Value<'_>) {
        let [key] = path else { return };
        match (key, value) {
            (Key::Query, Value::Text) => {
                (self.query, self.query_ended) = (Some(Document::default()), false);
            }
            (Key::Method, Value::Text) => self.method.clear(),
            (Key::Model, Value::Text) => self.model.clear(),
            (Key::Jsonrpc, Value::Text) => self.jsonrpc.clear(),
            (Key::OperationName, Value::Text) => self.operation_name.clear(),
            (Key::Id, Value::Number(number)) => {
                self.id.clear();
                self.id.push(number.as_bytes());
                self.id.end();
            }
            (Key::Params, Value::Text | Value::Number(_) | Value::Truth) => self.unlike_json_rpc = true,
            (Key::Variables, Value::Text | Value::Number(_) | Value::Truth | Value::Array)
            | (Key::OperationName, Value::Number(_) | Value::Truth | Value::Array | Value::Object) => {
                self.unlike_graphql = true;
            }
            (Key::Messages, Value::Array) => self.messages = true,
            (Key::Input, Value::Text | Value::Array) => self.input = true,
            (Key::Prompt, Value::Text | Value::Array) => self.prompt = true,
            (Key::MaxTokens, Value::Number(_)) => self.max_tokens = true,
            _ => {}
        }
    }

    fn piece(&mut self, path: &[Key], bytes: &[u8]) {
        match path {
            [Key::Query] => {
                if let Some(document) = &mut self.query {
                    document.feed(bytes);
                }
            }
            [Key::Method] => self.method.push(bytes),
            [Key::Model] => self.model.push(bytes),
            [Key::Jsonrpc] => self.jsonrpc.push(bytes),
            [Key::OperationName] => self.operation_name.push(bytes),
            _ => {}
        }
    }

    fn text_end(&mut self, path: &[Key]) {
        match path {
            [Key::Query] => self.query_ended = true,
            [Key::Method] => self.method.end(),
            [Key::Model] => self.model.end(),
            [Key::Jsonrpc] => self.jsonrpc.end(),
            [Key::OperationName] => self.operation_name.end(),
            _ => {}
        }
    }
}
