//! What the fields of a header block say, in the words of the semantic conventions for HTTP and RPC.

use super::{
    grpc::{self, Messages},
    hpack::Field,
};
use crate::{
    content::{Media, Scan, Target},
    detect::Protocol,
    http1::known_method,
    session::{Facts, Outcome, Side, Texts, TraceParent, Value},
};

/// The fields of one block. Of fields that come twice, the first counts.
#[derive(Debug, Default)]
pub(super) struct Head {
    method: String,
    /// See [`Field::Path`].
    path: String,
    scheme: String,
    authority: String,
    host: String,
    status: Option<u16>,
    grpc: bool,
    media: Media,
    /// The body is not sent as it is.
    encoded: bool,
    anthropic: bool,
    grpc_status: Option<u32>,
    timeout_ms: Option<u64>,
    trace: Option<TraceParent>,
    traces_differ: bool,
    /// Fields that point to entries that are not known.
    unresolved: u32,
}

impl Head {
    /// Before a block.
    pub fn clear(&mut self) {
        for text in [&mut self.method, &mut self.path, &mut self.scheme, &mut self.authority, &mut self.host] {
            text.clear();
        }
        (self.status, self.grpc, self.grpc_status, self.timeout_ms) = (None, false, None, None);
        (self.media, self.encoded, self.anthropic) = (Media::Other, false, false);
        (self.trace, self.traces_differ, self.unresolved) = (None, false, 0);
    }

    /// The next field.
    pub fn add(&mut self, field: Field<&str>) {
        match field {
            Field::Method(text) => set(&mut self.method, text),
            Field::Path(text) => set(&mut self.path, text),
            Field::Scheme(text) => set(&mut self.scheme, text),
            Field::Authority(text) => set(&mut self.authority, text),
            Field::Host(text) => set(&mut self.host, text),
            Field::Status(status) => self.status = self.status.or(Some(status)),
            Field::ContentType { grpc, media } => (self.grpc, self.media) = (self.grpc | grpc, media),
            Field::ContentEncoding { encoded } => self.encoded |= encoded,
            Field::AnthropicVersion => self.anthropic = true,
            Field::GrpcStatus(status) => self.grpc_status = self.grpc_status.or(Some(status)),
            Field::GrpcTimeout(timeout) => self.timeout_ms = self.timeout_ms.or(Some(timeout)),
            Field::TraceParent(trace) => {
                self.traces_differ |= self.trace.is_some_and(|known| known != trace);
                self.trace = Some(trace);
            }
            Field::Other => {}
            Field::Unresolved => self.unresolved = self.unresolved.saturating_add(1),
        }
    }

    pub const fn status(&self) -> Option<u16> {
        self.status
    }

    pub const fn is_grpc(&self) -> bool {
        self.grpc
    }

    /// Whether a request with this head is surely no call: one is a POST, and says that it is a call.
    pub fn is_plain(&self) -> bool {
        !self.grpc && (self.unresolved == 0 || !matches!(self.method.as_str(), "" | "POST"))
    }

    /// Whether trailers like these are surely those of no call.
    pub const fn has_no_call_status(&self) -> bool {
        self.grpc_status.is_none() && self.unresolved == 0
    }

    /// Whether it has no field that a message's head must have, and may not miss one that is not known.
    pub fn is_trailers(&self, from: Side) -> bool {
        let begins = match from {
            Side::Client => !self.method.is_empty() || !self.path.is_empty() || !self.scheme.is_empty(),
            Side::Server => self.status.is_some(),
        };
        !begins && self.unresolved == 0
    }

    /// What a request's head says.
    pub fn request(&self, texts: &mut Texts) -> Facts {
        let mut facts = Facts {
            trace: self.trace.filter(|_| !self.traces_differ),
            host: self.host().map(|host| texts.text(host)),
            attributes: Vec::with_capacity(8),
            ..Facts::default()
        };
        match self.grpc {
            true => self.call(&mut facts, texts),
            false => self.http(&mut facts),
        }
        self.say_unresolved(&mut facts);
        facts
    }

    fn host(&self) -> Option<&str> {
        let host = if self.authority.is_empty() { &self.host } else { &self.authority };
        (!host.is_empty()).then_some(host)
    }

    /// What a request's body is to be shown to.
    pub fn request_content(&self) -> Option<Scan> {
        let path = self.path.split('?').next().unwrap_or_default();
        let target = Target { path, host: self.host(), anthropic: self.anthropic };
        Scan::request(&self.method, self.body_media(), target)
    }

    /// The same of the response to a request in which something was found.
    pub fn response_content(&self) -> Option<Scan> {
        Scan::response(self.body_media())
    }

    fn body_media(&self) -> Media {
        if self.encoded { Media::Other } else { self.media }
    }

    fn http(&self, facts: &mut Facts) {
        let known = known_method(&self.method);
        facts.name = Some(known.unwrap_or("HTTP").into());
        let mut say = |key, value| facts.attributes.push((key, Value::String(value)));
        if !self.method.is_empty() {
            say("http.request.method", known.unwrap_or("_OTHER").into());
        }
        if known.is_none() && !self.method.is_empty() {
            say("http.request.method_original", self.method.clone().into());
        }
        let (path, names) = self.path.split_once('?').unwrap_or((&self.path, ""));
        if !path.is_empty() {
            say("url.path", path.to_owned().into());
        }
        match self.scheme.as_str() {
            "" => {}
            "http" => say("url.scheme", "http".into()),
            "https" => say("url.scheme", "https".into()),
            other => say("url.scheme", other.to_owned().into()),
        }
        say("network.protocol.name", "http".into());
        say("network.protocol.version", "2".into());
        if !names.is_empty() {
            let names = names.split('&').map(str::to_owned).collect();
            facts.attributes.push(("spantap.url.query_names", Value::Strings(names)));
        }
    }

    /// Names of today's conventions first, then those that they replace.
    fn call(&self, facts: &mut Facts, texts: &mut Texts) {
        facts.protocol = Some(Protocol::Grpc);
        let (path, _) = self.path.split_once('?').unwrap_or((&self.path, ""));
        let method = grpc::method(path);
        let name = method.map(|method| texts.text(method));
        let service = method.and_then(|method| method.rsplit_once('/')).map(|(service, _)| texts.text(service));
        facts.name = Some(name.clone().unwrap_or("grpc".into()));
        let mut say = |key, value| facts.attributes.push((key, Value::String(value)));
        say("rpc.system.name", "grpc".into());
        if !path.is_empty() {
            say("rpc.method", name.unwrap_or("_OTHER".into()));
        }
        say("rpc.system", "grpc".into());
        if let Some(service) = service {
            say("rpc.service", service);
        }
        say("network.protocol.name", "http".into());
        say("network.protocol.version", "2".into());
        if let Some(timeout) = self.timeout_ms {
            facts.attributes.push(("spantap.rpc.deadline_ms", timeout.into()));
        }
    }

    /// What a response's head says; of a call's, the status is told by its trailers, which may be this head. `is_plain`: it
    /// answers what is no call.
    pub fn response(&self, is_call: bool, is_plain: bool, interim: u8) -> Facts {
        let may_be_call = is_call || (self.unresolved > 0 && !is_plain);
        let is_call = is_call || self.grpc_status.is_some();
        let mut facts = Facts::default();
        if let Some(status) = self.status {
            facts.outcome = match status {
                // Until a call's own status is known, that of its transport says nothing.
                200 if may_be_call => None,
                status => Some(outcome(status)),
            };
            if !is_call || status != 200 {
                facts.attributes.push(("http.response.status_code", Value::Int(status.into())));
            }
        }
        if interim > 0 {
            facts.attributes.push(("spantap.http.interim_responses", Value::Int(interim.into())));
        }
        self.say_grpc_status(&mut facts);
        self.say_unresolved(&mut facts);
        facts
    }

    /// What a response's trailers say.
    pub fn trailers(&self) -> Facts {
        let mut facts = Facts::default();
        self.say_grpc_status(&mut facts);
        self.say_unresolved(&mut facts);
        facts
    }

    fn say_grpc_status(&self, facts: &mut Facts) {
        let Some(status) = self.grpc_status else { return };
        facts.outcome = Some(grpc::outcome(status));
        facts.attributes.push(("rpc.response.status_code", grpc::status_name(status).into()));
        facts.attributes.push(("rpc.grpc.status_code", status.into()));
    }

    fn say_unresolved(&self, facts: &mut Facts) {
        if self.unresolved > 0 {
            facts.attributes.push(("spantap.http.unresolved_headers", self.unresolved.into()));
        }
    }
}

fn set(known: &mut String, text: &str) {
    if known.is_empty() {
        known.reserve_exact(text.len());
        known.push_str(text);
    }
}

/// Semantic conventions for HTTP: 4xx is an error of the client's span only, 5xx of both.
fn outcome(status: u16) -> Outcome {
    match status {
        400..500 => Outcome::ClientError(status.to_string().into()),
        500.. => Outcome::Error(status.to_string().into()),
        _ => Outcome::Ok,
    }
}

/// Adds how many messages a direction of a call carried.
pub(super) fn say_messages(facts: &mut Facts, from: Side, messages: Messages) {
    let key = match from {
        Side::Client => "spantap.rpc.request.messages",
        Side::Server => "spantap.rpc.response.messages",
    };
    if let Some(count) = messages.count() {
        facts.attributes.push((key, count.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(fields: &[Field<&str>]) -> Head {
        let mut head = Head::default();
        fields.iter().for_each(|field| head.add(*field));
        head
    }

    fn value<'a>(facts: &'a Facts, key: &str) -> Option<&'a Value> {
        facts.attributes.iter().find(|(known, _)| *known == key).map(|(_, value)| value)
    }

    #[test]
    fn unknown_methods_are_not_names() {
        let facts = head(&[Field::Method("BREW"), Field::Path("/pot")]).request(&mut Texts::default());
        assert_eq!(facts.name.as_deref(), Some("HTTP"));
        assert_eq!(value(&facts, "http.request.method"), Some(&"_OTHER".into()));
        assert_eq!(value(&facts, "http.request.method_original"), Some(&"BREW".into()));
    }

    #[test]
    fn what_is_not_known_is_not_told() {
        let facts = head(&[Field::Unresolved, Field::Unresolved]).request(&mut Texts::default());
        assert_eq!(facts.name.as_deref(), Some("HTTP"));
        assert_eq!(value(&facts, "http.request.method"), None);
        assert_eq!(value(&facts, "url.path"), None);
        assert_eq!(value(&facts, "spantap.http.unresolved_headers"), Some(&2_u32.into()));
        let response = head(&[Field::Unresolved]).response(false, false, 0);
        assert_eq!((response.outcome, value(&facts, "http.response.status_code")), (None, None));
    }

    #[test]
    fn the_first_of_two_counts_and_two_traces_are_none() {
        let facts = head(&[Field::Path("/a"), Field::Path("/b"), Field::Host("h"), Field::Authority("a")])
            .request(&mut Texts::default());
        assert_eq!((value(&facts, "url.path"), facts.host.as_deref()), (Some(&"/a".into()), Some("a")));
        let trace = |byte| TraceParent { version: 0, trace_id: [byte; 16], parent_id: [byte; 8], flags: 1 };
        let same = head(&[Field::TraceParent(trace(1)), Field::TraceParent(trace(1))]).request(&mut Texts::default());
        let other = head(&[Field::TraceParent(trace(1)), Field::TraceParent(trace(2))]).request(&mut Texts::default());
        assert_eq!((same.trace, other.trace), (Some(trace(1)), None));
    }

    #[test]
    fn a_call_that_http_refuses_is_an_error_of_http() {
        let facts = head(&[Field::Status(503)]).response(true, false, 0);
        assert_eq!(facts.outcome, Some(Outcome::Error("503".into())));
        assert_eq!(head(&[Field::Status(200)]).response(true, false, 0).outcome, None);
        assert_eq!(
            head(&[Field::Status(404)]).response(false, false, 0).outcome,
            Some(Outcome::ClientError("404".into()))
        );
    }

    #[test]
    fn a_path_that_is_no_method_is_no_name() {
        let call = [Field::ContentType { grpc: true, media: Media::Other }, Field::Path("/caf\u{e9}/x")];
        let facts = head(&call).request(&mut Texts::default());
        assert_eq!((facts.name.as_deref(), value(&facts, "rpc.method")), (Some("grpc"), Some(&"_OTHER".into())));
    }
}
