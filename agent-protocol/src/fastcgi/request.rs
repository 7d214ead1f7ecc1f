//! What a request says of itself: the parameters of CGI (RFC 3875, 4.1) as name-value pairs (section 3.4).

use std::borrow::Cow;

use crate::{
    http1::{PATH_BYTES_MAX, cut, known_method, query_names},
    session::{Facts, ROOM, Value},
    traceparent,
};

/// Most bytes of parameters that are read.
const BYTES_MAX: usize = 16 * 1024;

/// A request's parameters, as far as they came.
#[derive(Debug, Default)]
pub(super) struct Parameters {
    bytes: Vec<u8>,
    /// What follows was not captured, or is too much.
    cut: bool,
}

impl Parameters {
    /// More of the stream of pairs.
    pub fn add(&mut self, content: &[u8], hidden: bool) {
        if !self.cut {
            let room = BYTES_MAX - self.bytes.len();
            self.bytes.extend_from_slice(&content[..content.len().min(room)]);
            self.cut = hidden || content.len() > room;
        }
    }

    /// A gap: what comes next is not where it seems to be.
    pub fn hide(&mut self) {
        self.cut = true;
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.bytes.capacity()
    }

    /// As attributes, and the span's name; the bytes are given back.
    pub fn facts(&mut self) -> Facts {
        let bytes = std::mem::take(&mut self.bytes);
        let mut said = Said::default();
        for (name, value) in Pairs(&bytes) {
            said.take(name, value);
        }
        said.facts()
    }
}

/// Pairs, each behind the lengths of both.
struct Pairs<'a>(&'a [u8]);

impl<'a> Pairs<'a> {
    /// One byte, or four if the first bit is set.
    fn length(&mut self) -> Option<usize> {
        let (first, rest) = self.0.split_first()?;
        if first >> 7 == 0 {
            self.0 = rest;
            return Some(usize::from(*first));
        }
        let (bytes, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        usize::try_from(u32::from_be_bytes(*bytes) & 0x7fff_ffff).ok()
    }

    fn part(&mut self, length: usize) -> Option<&'a [u8]> {
        let (part, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(part)
    }
}

impl<'a> Iterator for Pairs<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, value) = (self.length()?, self.length()?);
        Some((self.part(name)?, self.part(value)?))
    }
}

/// The parameters that are told.
#[derive(Default)]
struct Said<'a> {
    method: Option<&'a str>,
    uri: Option<&'a str>,
    document: Option<&'a str>,
    script: Option<&'a str>,
    path_info: Option<&'a str>,
    query: Option<&'a str>,
    scheme: Option<&'a str>,
    secure: bool,
    trace: Option<&'a str>,
}

impl<'a> Said<'a> {
    fn take(&mut self, name: &[u8], value: &'a [u8]) {
        let field = match name {
            b"REQUEST_METHOD" => &mut self.method,
            b"REQUEST_URI" => &mut self.uri,
            b"DOCUMENT_URI" => &mut self.document,
            b"SCRIPT_NAME" => &mut self.script,
            b"PATH_INFO" => &mut self.path_info,
            b"QUERY_STRING" => &mut self.query,
            b"REQUEST_SCHEME" => &mut self.scheme,
            b"HTTP_TRACEPARENT" => &mut self.trace,
            b"HTTPS" => return self.secure = !value.is_empty() && !value.eq_ignore_ascii_case(b"off"),
            _ => return,
        };
        *field = std::str::from_utf8(value).ok().filter(|value| !value.is_empty());
    }

    /// The path as the client asked for it; else what the server made of it.
    fn path(&self) -> Option<Cow<'a, str>> {
        let asked = self.uri.map(|uri| uri.split(['?', '#']).next().unwrap_or_default().into());
        let served = || self.script.map(|script| [script, self.path_info.unwrap_or_default()].concat().into());
        asked.or(self.document.map(Into::into)).or_else(served)
    }

    fn facts(&self) -> Facts {
        let known = self.method.and_then(known_method);
        let name = self.method.map(|_| known.unwrap_or("HTTP").into());
        let trace = self.trace.and_then(traceparent::parse);
        let mut facts = Facts { name, trace, attributes: Vec::with_capacity(ROOM), ..Facts::default() };
        if let Some(method) = self.method {
            facts.set("http.request.method", known.unwrap_or("_OTHER"));
            if known.is_none() {
                facts.set("http.request.method_original", cut(method, 32).to_owned());
            }
        }
        if let Some(path) = self.path() {
            facts.set("url.path", cut(&path, PATH_BYTES_MAX).to_owned());
        }
        match self.scheme {
            Some("http") => facts.set("url.scheme", "http"),
            Some("https") => facts.set("url.scheme", "https"),
            None if self.secure => facts.set("url.scheme", "https"),
            _ => {}
        }
        let query = self.query.or_else(|| Some(self.uri?.split_once('?')?.1)).unwrap_or_default();
        let names: Vec<_> = query_names(query).map(str::to_owned).collect();
        if !names.is_empty() {
            facts.set("spantap.url.query_names", Value::Strings(names.into()));
        }
        facts.with("network.protocol.name", "fastcgi")
    }
}
