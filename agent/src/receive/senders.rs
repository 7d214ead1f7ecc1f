//! Who sends: from the token of a request to its tenant.
//!
//! Tokens are read when the receivers start, and again when their files change. They are compared in constant time, never shown, and
//! stand in no message.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use http::{HeaderMap, HeaderName, header::AUTHORIZATION};
use subtle::ConstantTimeEq;

use super::{ReceiveError, answer::Refused, quota::Meter};
use crate::{
    config::{Receive, Secret},
    intake::NO_TENANT,
};

/// One tenant at work.
#[derive(Debug)]
pub(super) struct Sender {
    pub name: String,
    pub meter: Meter,
    pub spans_taken: AtomicU64,
    pub refused_quota: AtomicU64,
}

/// Counters of one tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantCounts {
    /// Its name.
    pub name: String,
    /// Spans that were taken.
    pub spans_taken: u64,
    /// Requests that were refused because of its quota.
    pub refused_quota: u64,
}

impl Sender {
    pub(super) fn counts(&self) -> TenantCounts {
        TenantCounts {
            name: self.name.clone(),
            spans_taken: self.spans_taken.load(Relaxed),
            refused_quota: self.refused_quota.load(Relaxed),
        }
    }
}

pub(super) struct Senders {
    senders: Vec<Arc<Sender>>,
    sources: Vec<(usize, Secret)>,
    tokens: RwLock<Vec<Token>>,
    header: Option<HeaderName>,
}

/// A token and the index of its sender.
#[derive(PartialEq)]
struct Token(Vec<u8>, usize);

impl Senders {
    pub(super) fn new(receive: &Receive) -> Result<Self, ReceiveError> {
        let sender = |name: &str, quota| {
            let meter = Meter::new(quota);
            Arc::new(Sender { name: name.into(), meter, spans_taken: 0.into(), refused_quota: 0.into() })
        };
        let mut senders: Vec<_> =
            receive.tenants.iter().map(|tenant| sender(&tenant.name, tenant.quota.unwrap_or(receive.quota))).collect();
        if senders.is_empty() {
            senders.push(sender(NO_TENANT, receive.quota));
        }
        let sources = receive.tenants.iter().enumerate();
        let sources = sources.flat_map(|(index, tenant)| tenant.tokens.iter().map(move |token| (index, token.clone())));
        let mut senders = Self {
            senders,
            sources: sources.collect(),
            tokens: RwLock::default(),
            header: HeaderName::try_from(&receive.tenant_header).ok(),
        };
        *senders.tokens.get_mut().unwrap_or_else(PoisonError::into_inner) = senders.read()?;
        Ok(senders)
    }

    /// Reads the tokens again, and says whether they differ; on error the previous ones stay.
    pub(super) fn reload(&self) -> Result<bool, ReceiveError> {
        let tokens = self.read()?;
        let mut current = self.tokens.write().unwrap_or_else(PoisonError::into_inner);
        let differ = *current != tokens;
        *current = tokens;
        Ok(differ)
    }

    /// Whose request it is, by its headers.
    pub(super) fn identify(&self, headers: &HeaderMap) -> Result<Arc<Sender>, Refused> {
        if self.sources.is_empty() {
            return Ok(Arc::clone(&self.senders[0]));
        }
        let given = headers.get(AUTHORIZATION).ok_or(Refused::Unauthenticated("a bearer token is needed"))?;
        let given = bearer(given.as_bytes()).ok_or(Refused::Unauthenticated("a bearer token is needed"))?;
        let sender = self.known(given).ok_or(Refused::Unauthenticated("the token is not known"))?;
        let claimed = self.header.as_ref().and_then(|header| headers.get(header));
        if claimed.is_some_and(|claimed| claimed.as_bytes() != sender.name.as_bytes()) {
            return Err(Refused::Forbidden("the token is not one of the tenant that the header names".into()));
        }
        Ok(sender)
    }

    /// All of them, in the order of the configuration.
    pub(super) fn all(&self) -> Vec<Arc<Sender>> {
        self.senders.clone()
    }

    /// Compares with every token, whichever it is.
    fn known(&self, given: &[u8]) -> Option<Arc<Sender>> {
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        let mut found = None;
        for Token(token, sender) in tokens.iter() {
            if token.ct_eq(given).into() {
                found = Some(*sender);
            }
        }
        found.map(|index| Arc::clone(&self.senders[index]))
    }

    fn read(&self) -> Result<Vec<Token>, ReceiveError> {
        let mut seen: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
        for (index, source) in &self.sources {
            let name = &self.senders[*index].name;
            let token = read(name, source)?;
            if let Some(other) = seen.insert(token, *index).filter(|other| other != index) {
                let cause = format!("`{}` has the same token", self.senders[other].name);
                return Err(ReceiveError::Token { tenant: name.clone(), cause });
            }
        }
        Ok(seen.into_iter().map(|(token, index)| Token(token, index)).collect())
    }
}

fn read(tenant: &str, source: &Secret) -> Result<Vec<u8>, ReceiveError> {
    let wrong = |cause: String| ReceiveError::Token { tenant: tenant.to_owned(), cause };
    let (text, place) = match source {
        Secret::File { file } => {
            let text = fs::read_to_string(file).map_err(|cause| ReceiveError::File {
                key: "receive.tenants.tokens.file",
                path: file.clone(),
                cause,
            })?;
            (text, format!("the first line of {}", file.display()))
        }
        Secret::Env { env } => {
            let text = std::env::var(env)
                .map_err(|_| wrong(format!("environment variable {env} is not set; set it for the agent's service")))?;
            (text, format!("environment variable {env}"))
        }
    };
    let token = text.lines().next().unwrap_or_default().trim();
    if token.is_empty() {
        return Err(wrong(format!("{place} is empty")));
    }
    // What a header can hold; RFC 6750 allows less.
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong(format!("{place} has characters that a token cannot have")));
    }
    Ok(token.as_bytes().to_vec())
}

/// Files with tokens.
pub(super) fn token_files(receive: &Receive) -> Vec<PathBuf> {
    let file = |source: &Secret| match source {
        Secret::File { file } => Some(file.clone()),
        Secret::Env { .. } => None,
    };
    receive.tenants.iter().flat_map(|tenant| &tenant.tokens).filter_map(file).collect()
}

/// The token of `Bearer TOKEN` (RFC 6750, section 2.1; the scheme's case does not matter, RFC 9110, section 11.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked("bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Tenant;

    fn receive(folder: &std::path::Path, tenants: &[(&str, &[&str])]) -> Receive {
        let tenant = |(name, tokens): &(&str, &[&str])| {
            let source = |token: &&str| {
                let file = folder.join(format!("{name}-{token}"));
                fs::write(&file, format!("{token}\n")).unwrap();
                Secret::File { file }
            };
            Tenant { name: (*name).into(), tokens: tokens.iter().map(source).collect(), quota: None }
        };
        Receive { tenants: tenants.iter().map(tenant).collect(), ..Receive::default() }
    }

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        all.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_token_is_its_tenants_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let senders = Senders::new(&receive(folder.path(), &[("blue", &["b1", "b2"]), ("red", &["r1"])])).unwrap();
        let check = |all: &[(&'static str, &str)], expected: Result<&str, &str>| {
            let got = senders.identify(&headers(all));
            match (&got, expected) {
                (Ok(sender), Ok(name)) => assert_eq!(sender.name, name, "{all:?}"),
                (Err(refused), Err(part)) => assert!(refused.message().contains(part), "{all:?}: {refused:?}"),
                _ => panic!("{all:?}: {got:?}"),
            }
        };
        check(&[("authorization", "Bearer b1")], Ok("blue"));
        check(&[("authorization", "bearer  b2")], Ok("blue"));
        check(&[("authorization", "BEARER r1")], Ok("red"));
        check(&[("authorization", "Bearer r1"), ("x-scope-orgid", "red")], Ok("red"));
        check(&[("authorization", "Bearer r1"), ("x-scope-orgid", "blue")], Err("not one of the tenant"));
        check(&[], Err("is needed"));
        check(&[("authorization", "Basic b1")], Err("is needed"));
        check(&[("authorization", "Bearer")], Err("is needed"));
        for wrong in ["Bearer b", "Bearer b12", "Bearer ", "Bearer b1 b2"] {
            check(&[("authorization", wrong)], Err("not known"));
        }
    }

    #[test]
    fn without_tokens_everybody_is_the_default_tenant() {
        let senders = Senders::new(&Receive::default()).unwrap();
        assert_eq!(senders.identify(&headers(&[("x-scope-orgid", "blue")])).unwrap().name, NO_TENANT);
    }

    #[test]
    fn unusable_tokens_are_named_but_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let check = |mut receive: Receive, source: Option<Secret>, part: &str| {
            receive.tenants[0].tokens.extend(source);
            let error = Senders::new(&receive).err().unwrap().to_string();
            assert!(error.contains(part) && !error.contains("hunter2"), "{error}");
        };
        let one = || receive(folder.path(), &[("blue", &[])]);
        check(one(), Some(Secret::File { file: "/nowhere/t".into() }), "/nowhere/t");
        check(one(), Some(Secret::Env { env: "NO_SUCH_VARIABLE_IS_SET".into() }), "NO_SUCH_VARIABLE_IS_SET");
        let file = folder.path().join("file");
        for (text, part) in [("\n", "is empty"), ("hunter2 hunter2", "characters")] {
            fs::write(&file, text).unwrap();
            check(one(), Some(Secret::File { file: file.clone() }), part);
        }
        check(receive(folder.path(), &[("blue", &["hunter2"]), ("red", &["hunter2"])]), None, "same token");
    }

    #[test]
    fn a_changed_token_counts_and_an_unusable_one_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let receive = receive(folder.path(), &[("blue", &["old"])]);
        let senders = Senders::new(&receive).unwrap();
        let knows = |token: &str| senders.known(token.as_bytes()).is_some();
        let file = &token_files(&receive)[0];
        fs::write(file, "new\n").unwrap();
        assert!(senders.reload().unwrap());
        assert!(!senders.reload().unwrap());
        assert!(knows("new") && !knows("old"));
        fs::write(file, "\n").unwrap();
        senders.reload().unwrap_err();
        assert!(knows("new"));
    }
}
