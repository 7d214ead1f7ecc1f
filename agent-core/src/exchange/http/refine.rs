//! What an HTTP exchange is beyond HTTP, where one of its ends says so: a call of an AWS API, an operation of Elasticsearch.
//!
//! In: the heads of both messages. Out: attributes, and the span's name where it has a better one than its route. Called by `finish`.

use agent_protocol::http1::{AwsCall, RequestHead, ResponseHead};

use crate::exchange::semconv::{Attributes, text, word};

/// Adds what is known; gives the span's name, if it is one of its own.
pub(super) fn refine(
    attributes: &mut Attributes,
    request: &RequestHead,
    answer: Option<&ResponseHead>,
) -> Option<String> {
    if let Some(call) = &request.aws {
        return aws(attributes, call);
    }
    answer.is_some_and(|answer| answer.elasticsearch).then(|| elasticsearch(attributes, request)).flatten()
}

/// Semantic conventions for AWS SDKs; the service by its name in the signature. Today's names first.
fn aws(attributes: &mut Attributes, call: &AwsCall) -> Option<String> {
    let method = call.operation.as_ref().map(|operation| format!("{}/{operation}", call.service));
    attributes.push(("rpc.system.name", word("aws-api")));
    attributes.extend(method.as_ref().map(|method| ("rpc.method", text(method))));
    attributes.push(("rpc.system", word("aws-api")));
    attributes.push(("rpc.service", text(&call.service)));
    attributes.push(("cloud.region", text(&call.region)));
    method
}

/// Semantic conventions for Elasticsearch: the endpoint is the path's first part that begins with `_`, and what is before it
/// names the indices.
fn elasticsearch(attributes: &mut Attributes, request: &RequestHead) -> Option<String> {
    attributes.push(("db.system.name", word("elasticsearch")));
    let mut parts = request.path.split('/').filter(|part| !part.is_empty());
    let first = parts.next()?;
    let (index, endpoint) = if first.starts_with('_') { (None, first) } else { (Some(first), parts.next()?) };
    let operation = operation(&request.method, endpoint)?;
    attributes.push(("db.operation.name", word(operation)));
    attributes.extend(index.map(|index| ("db.collection.name", text(index))));
    Some(index.map_or_else(|| operation.to_owned(), |index| format!("{operation} {index}")))
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
