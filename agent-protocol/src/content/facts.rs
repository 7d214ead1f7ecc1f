//! What was asked for and answered, in the words of OpenTelemetry's semantic conventions. Today's names first.

use std::borrow::Cow;

use super::{Answered, Asked};
use crate::session::{Facts, Outcome};

/// `error.type` of an operation of GraphQL that has errors and no data: the protocol has no codes.
const GRAPHQL_ERROR: &str = "graphql_error";
/// What is there, but is no word.
const OTHER: &str = "_OTHER";

impl Asked {
    /// The span's name and attributes.
    pub fn facts(&self) -> Facts {
        match self {
            Self::GraphQl { kind, name, inferred } => {
                let kind = kind.map(|kind| kind.name());
                // The conventions leave the operation's name out of the span's, because clients make it up.
                let mut facts = Facts::named(kind.unwrap_or("GraphQL Operation"));
                say(&mut facts, "graphql.operation.type", kind.map(Cow::Borrowed));
                say(&mut facts, "graphql.operation.name", name.clone().map(Cow::Owned));
                say(&mut facts, "spantap.graphql.operation.evidence", inferred.then_some(Cow::Borrowed("inferred")));
                facts
            }
            Self::JsonRpc { method, id } => {
                let mut facts = Facts::named(method.clone().map_or(Cow::Borrowed("jsonrpc"), Cow::Owned));
                say(&mut facts, "rpc.system.name", Some("jsonrpc".into()));
                say(&mut facts, "rpc.method", Some(method.clone().map_or(OTHER.into(), Cow::Owned)));
                say(&mut facts, "rpc.system", Some("jsonrpc".into()));
                say(&mut facts, "jsonrpc.protocol.version", Some("2.0".into()));
                say(&mut facts, "jsonrpc.request.id", id.clone().map(Cow::Owned));
                facts
            }
            Self::GenAi { operation, model, provider } => {
                let name =
                    model.as_ref().map_or(Cow::Borrowed(*operation), |model| [operation, " ", model].concat().into());
                let mut facts = Facts::named(name);
                say(&mut facts, "gen_ai.operation.name", Some(Cow::Borrowed(*operation)));
                say(&mut facts, "gen_ai.provider.name", provider.map(Cow::Borrowed));
                say(&mut facts, "gen_ai.request.model", model.clone().map(Cow::Owned));
                facts
            }
        }
    }

    /// What the response adds: attributes, and an outcome where the body says that it failed though HTTP may not.
    pub fn answer(&self, answered: &Answered, http_failed: bool) -> Facts {
        let mut facts = Facts::default();
        match self {
            Self::GraphQl { .. } => {
                // With data, the operation was executed, and only some of its fields have errors.
                let failed = answered.errors && answered.whole && !answered.has_data && !http_failed;
                facts.outcome = failed.then_some(Outcome::Error(GRAPHQL_ERROR.into()));
                if answered.errors {
                    facts.set("spantap.graphql.errors", true);
                }
            }
            Self::JsonRpc { .. } => {
                let code = answered.rpc_code.map(|code| Cow::Owned(code.to_string()));
                // All error codes are errors, of both ends.
                facts.outcome = code.clone().map(Outcome::Error);
                say(&mut facts, "rpc.response.status_code", code);
            }
            Self::GenAi { .. } => {
                let Answered { model, input_tokens, output_tokens, failed, error_type, .. } = answered;
                say(&mut facts, "gen_ai.response.model", model.clone().map(Cow::Owned));
                for (key, tokens) in
                    [("gen_ai.usage.input_tokens", input_tokens), ("gen_ai.usage.output_tokens", output_tokens)]
                {
                    if let Some(tokens) = tokens {
                        facts.set(key, *tokens);
                    }
                }
                let failed = *failed && !http_failed;
                facts.outcome = failed.then(|| Outcome::Error(error_type.clone().map_or(OTHER.into(), Cow::Owned)));
            }
        }
        facts
    }
}

fn say(facts: &mut Facts, key: &'static str, value: Option<Cow<'static, str>>) {
    if let Some(value) = value {
        facts.set(key, value);
    }
}
