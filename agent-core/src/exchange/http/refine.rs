//! What an HTTP exchange is beyond HTTP, where one of its ends says so: a call of an AWS API, an operation of a search engine, and what the
//! body asks for ([`agent_protocol::content`]).
//!
//! In: both messages. Out: attributes, the span's name where it has a better one than its route, and that it failed where only the body
//! says so. Called by `finish`.

use agent_protocol::{
    content::{Answered, Asked, Content},
    http1::{AwsCall, RequestHead, ResponseHead, SearchEngine},
    session::{Facts, Outcome, Text, Value},
};

use super::Message;
use crate::exchange::semconv::{Attributes, text, word};

/// What is known beyond HTTP.
#[derive(Debug, Default)]
pub(super) struct Refined {
    pub attributes: Attributes,
    /// The span's name, if it is one of its own.
    pub name: Option<Text>,
    /// Value of `error.type`, if the body says that it failed.
    pub outcome: Option<String>,
}

/// Finds out what is known.
pub(super) fn refine(request: &Message<RequestHead>, answer: Option<&Message<ResponseHead>>) -> Refined {
    let mut refined = Refined::default();
    let head = &request.head;
    let content = |content: &Option<Box<Content>>| content.as_deref().cloned();
    if let Some(call) = &head.aws {
        refined.name = aws(&mut refined.attributes, call);
    } else if let Some(Content::Asked(asked)) = content(&request.content) {
        let answered = match answer.and_then(|answer| content(&answer.content)) {
            Some(Content::Answered(answered)) => answered,
            _ => Answered::default(),
        };
        body(&mut refined, &asked, &answered, answer.is_some_and(|answer| answer.head.status >= 400));
    } else if let Some(engine) = answer.and_then(|answer| answer.head.search_engine) {
        refined.name = search(&mut refined.attributes, engine, head);
    }
    refined
}

fn body(refined: &mut Refined, asked: &Asked, answered: &Answered, http_failed: bool) {
    let mut facts = asked.facts();
    facts.add(asked.answer(answered, http_failed));
    let Facts { name, attributes, outcome, .. } = facts;
    refined.name = name;
    refined.attributes.extend(attributes);
    refined.outcome = match outcome {
        Some(Outcome::Error(error_type) | Outcome::ClientError(error_type)) => Some(error_type.into_owned()),
        Some(Outcome::Ok) | None => None,
    };
}

/// Semantic conventions for AWS SDKs; the service by its name in the signature. Today's names first.
fn aws(attributes: &mut Attributes, call: &AwsCall) -> Option<Text> {
    let method = call.operation.as_ref().map(|operation| Text::from(format!("{}/{operation}", call.service)).shared());
    attributes.push(("rpc.system.name", word("aws-api")));
    attributes.extend(method.clone().map(|method| ("rpc.method", method.into())));
    attributes.push(("rpc.system", word("aws-api")));
    attributes.push(("rpc.service", Value::String(call.service.clone())));
    attributes.push(("cloud.region", Value::String(call.region.clone())));
    method
}

/// Semantic conventions for Elasticsearch, which are OpenSearch's too: the endpoint is the path's first part that begins with `_`, and
/// what is before it names the indices.
fn search(attributes: &mut Attributes, engine: SearchEngine, request: &RequestHead) -> Option<Text> {
    attributes.push(("db.system.name", word(engine.name())));
    let mut parts = request.path.split('/').filter(|part| !part.is_empty());
    let first = parts.next()?;
    let (index, endpoint) = if first.starts_with('_') { (None, first) } else { (Some(first), parts.next()?) };
    let operation = operation(&request.method, endpoint)?;
    attributes.push(("db.operation.name", word(operation)));
    attributes.extend(index.map(|index| ("db.collection.name", text(index))));
    Some(index.map_or_else(|| operation.into(), |index| format!("{operation} {index}").into()))
}

/// The endpoint's id in Elasticsearch's own schema; `None` for those that are not known.
fn operation(method: &str, endpoint: &str) -> Option<&'static str> {
    Some(match (method, endpoint) {
        ("GET" | "POST", "_search") => "search",
        ("GET" | "POST", "_msearch") => "msearch",
        ("GET" | "POST", "_count") => "count",
        ("GET" | "POST", "_mget") => "mget",
        ("GET", "_doc") => "get",
        ("HEAD", "_doc") => "exists",
        ("PUT" | "POST", "_doc") => "index",
        ("DELETE", "_doc") => "delete",
        ("GET", "_source") => "get_source",
        ("PUT" | "POST", "_create") => "create",
        ("POST", "_update") => "update",
        ("POST", "_update_by_query") => "update_by_query",
        ("POST", "_delete_by_query") => "delete_by_query",
        ("POST", "_reindex") => "reindex",
        ("PUT" | "POST", "_bulk") => "bulk",
        ("GET" | "POST", "_refresh") => "indices.refresh",
        ("GET", "_mapping") => "indices.get_mapping",
        ("PUT" | "POST", "_mapping") => "indices.put_mapping",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_known_by_method_and_path() {
        let check =
            |method, endpoint, expected| assert_eq!(operation(method, endpoint), expected, "{method} {endpoint}");
        check("POST", "_search", Some("search"));
        check("GET", "_doc", Some("get"));
        check("DELETE", "_doc", Some("delete"));
        check("DELETE", "_search", None);
        check("GET", "_cat", None);
    }
}
