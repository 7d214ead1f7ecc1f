//! What a message's fields say of the service that is called, where one of its ends names it in public words.
//!
//! In: the values of `X-Amz-Target` and `Authorization`; of `X-elastic-product` and `X-OpenSearch-Version`. Out: an [`AwsCall`]; a
//! [`SearchEngine`]. Called by `request` and `response`. Of the authorization only the credential scope is read, which is no secret:
//! the signature itself and the key are passed over.

use crate::session::{Text, Texts};

/// Longest name that is told.
const NAME_BYTES_MAX: usize = 64;

/// A call of an AWS API, or of what speaks like one (Signature Version 4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsCall {
    /// The service's name in the signature (`s3`, `sqs`, `dynamodb`).
    pub service: Text,
    /// The region that the request is signed for.
    pub region: Text,
    /// The operation (`SendMessage`), where the protocol has it in a field: AWS JSON; in others it is in the path or the body.
    pub operation: Option<Text>,
}

impl AwsCall {
    /// `None` if the request is not signed in this way.
    pub(super) fn new(authorization: Option<&str>, target: Option<&str>, texts: &mut Texts) -> Option<Self> {
        let (region, service) = scope(authorization?)?;
        let operation = target.and_then(|target| target.rsplit_once('.')).map(|(_, operation)| operation);
        let operation = operation.filter(|operation| is_name(operation)).map(|operation| texts.text(operation));
        Some(Self { service: texts.text(service), region: texts.text(region), operation })
    }
}

/// A search engine that says in its answers what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SearchEngine {
    /// Elasticsearch (since 7.14: `X-elastic-product: Elasticsearch`).
    Elasticsearch,
    /// OpenSearch (since 3.0: `X-OpenSearch-Version: OpenSearch/… (opensearch)`).
    OpenSearch,
}

impl SearchEngine {
    pub(super) fn new(elastic_product: Option<&str>, opensearch_version: Option<&str>) -> Option<Self> {
        let is_opensearch = opensearch_version.is_some_and(|version| version.starts_with("OpenSearch/"));
        match elastic_product {
            Some("Elasticsearch") if opensearch_version.is_none() => Some(Self::Elasticsearch),
            None if is_opensearch => Some(Self::OpenSearch),
            // What claims to be both may be neither.
            _ => None,
        }
    }

    /// By the semantic conventions: `db.system.name`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Elasticsearch => "elasticsearch",
            Self::OpenSearch => "opensearch",
        }
    }
}

/// Region and service of `AWS4-… Credential=<key>/<date>/<region>/<service>/aws4_request, …`.
fn scope(authorization: &str) -> Option<(&str, &str)> {
    let (algorithm, parameters) = authorization.split_once(' ')?;
    if !algorithm.starts_with("AWS4-") {
        return None;
    }
    let credential = parameters.split(',').find_map(|parameter| parameter.trim().strip_prefix("Credential="))?;
    let mut parts = credential.rsplit('/');
    let (end, service, region) = (parts.next()?, parts.next()?, parts.next()?);
    let has_date = parts.next().is_some_and(|date| date.len() == 8 && date.bytes().all(|byte| byte.is_ascii_digit()));
    (end == "aws4_request" && has_date && is_name(service) && is_name(region)).then_some((region, service))
}

fn is_name(text: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the example of AWS's own documentation of the signature.
    const SIGNED: &str = "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, \
                          SignedHeaders=host;range;x-amz-date, Signature=fe5f80f77d5fa3beca038a248ff027d0445342fe2855ddc963176630326f1024";

    fn call(authorization: &str, target: Option<&str>) -> Option<(Text, Text, Option<Text>)> {
        let call = AwsCall::new(Some(authorization), target, &mut Texts::default());
        call.map(|call| (call.service, call.region, call.operation))
    }

    #[test]
    fn service_region_and_operation_are_read() {
        let of = |operation: Option<&'static str>| Some(("s3".into(), "us-east-1".into(), operation.map(Text::from)));
        assert_eq!(call(SIGNED, None), of(None));
        assert_eq!(call(SIGNED, Some("DynamoDB_20120810.GetItem")), of(Some("GetItem")));
        assert_eq!(call(SIGNED, Some("AmazonSQS.SendMessage")), of(Some("SendMessage")));
        assert_eq!(call(SIGNED, Some("no operation")), of(None));
        assert_eq!(call(SIGNED, Some("A.b c")), of(None));
    }

    #[test]
    fn search_engines_are_what_they_say() {
        let check = |product, version, expected| assert_eq!(SearchEngine::new(product, version), expected);
        check(Some("Elasticsearch"), None, Some(SearchEngine::Elasticsearch));
        check(None, Some("OpenSearch/3.7.0 (opensearch)"), Some(SearchEngine::OpenSearch));
        check(Some("Elasticsearch"), Some("3.0.0"), None);
        check(None, Some("3.0.0"), None);
        check(None, None, None);
    }

    #[test]
    fn other_credentials_say_nothing() {
        for other in [
            "Basic dXNlcjpwYXNzd29yZA==",
            "Bearer AWS4-HMAC-SHA256",
            "AWS4-HMAC-SHA256",
            "AWS4-HMAC-SHA256 Credential=a/b/c",
            "AWS4-HMAC-SHA256 Credential=a/20130524/us east/s3/aws4_request",
            "AWS4-HMAC-SHA256 Credential=a/2013/us-east-1/s3/aws4_request",
        ] {
            assert_eq!(call(other, Some("A.B")), None, "{other}");
        }
        assert_eq!(AwsCall::new(None, Some("AmazonSQS.SendMessage"), &mut Texts::default()), None);
    }
}
