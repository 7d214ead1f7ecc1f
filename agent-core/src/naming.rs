//! Span names stay few: configured routes, and a bound per service.
//!
//! In: paths and finished spans. Out: the route that a path belongs to; spans whose names are among the first
//! [`Names::names_max`] of their service, or end in `{other}`. Called by [`crate::redact`] (routes) and
//! [`crate::pipeline`] (bound). Limits: services whose names are counted ([`SERVICES_MAX`]); the others share one count.

use std::{
    collections::{HashMap, HashSet},
    hash::BuildHasher,
    sync::Arc,
};

use foldhash::quality::RandomState;

use crate::{
    loss::{Loss, Losses},
    redact::SafeSpan,
};

/// Services whose names are counted.
pub const SERVICES_MAX: usize = 1024;
/// What stands for every name, or route, beyond the bound.
pub const OTHER: &str = "{other}";

/// A path with placeholders: `/order/{id}`; `*` as the last segment stands for any rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    text: Arc<str>,
    segments: Vec<Option<String>>,
    rest: bool,
}

/// Why a route cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// It is no absolute path.
    #[error("a route begins with /")]
    Relative,
    /// Only whole segments are placeholders.
    #[error("a placeholder is a whole segment: /order/{{id}}, not /order-{{id}}")]
    Placeholder,
    /// `*` stands for the rest.
    #[error("* is the last segment")]
    Rest,
}

impl Route {
    /// Reads a route.
    pub fn parse(text: &str) -> Result<Self, RouteError> {
        let Some(path) = text.strip_prefix('/') else { return Err(RouteError::Relative) };
        let mut words: Vec<&str> = path.split('/').collect();
        let rest = words.last() == Some(&"*");
        if rest {
            words.pop();
        }
        let segment = |word: &&str| match word.strip_prefix('{').and_then(|word| word.strip_suffix('}')) {
            Some(name) if !name.is_empty() && !name.contains(['{', '}']) => Ok(None),
            None if word.contains(['{', '}']) => Err(RouteError::Placeholder),
            None if word.contains('*') => Err(RouteError::Rest),
            None => Ok(Some((*word).to_owned())),
            Some(_) => Err(RouteError::Placeholder),
        };
        let segments = words.iter().map(segment).collect::<Result<_, _>>()?;
        Ok(Self { text: text.into(), segments, rest })
    }

    /// Whether a path is of this route.
    pub fn matches(&self, path: &str) -> bool {
        let Some(path) = path.strip_prefix('/') else { return false };
        let mut words = path.split('/');
        let fits = self.segments.iter().all(|segment| match (segment, words.next()) {
            (Some(literal), Some(word)) => literal == word,
            (None, Some(word)) => !word.is_empty(),
            (_, None) => false,
        });
        fits && (self.rest || words.next().is_none())
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// The names that each service has had so far.
#[derive(Debug)]
pub struct Names {
    names_max: usize,
    /// By service: hashes of names.
    seen: HashMap<Option<String>, HashSet<u64, RandomState>, RandomState>,
}

impl Names {
    /// With a bound per service; 0 for none.
    pub fn new(names_max: usize) -> Self {
        Self { names_max, seen: HashMap::default() }
    }

    /// Takes a new name away from a span whose service has had as many as it may. `{other}` takes the place of what varies: all
    /// behind the first word.
    pub fn bound(&mut self, span: &mut SafeSpan, losses: &mut Losses) {
        if self.names_max == 0 {
            return;
        }
        let service = &span.span().process.service_name;
        let hash = self.seen.hasher().hash_one(span.span().name.as_str());
        if self.seen.get(service).is_some_and(|names| names.contains(&hash)) {
            return;
        }
        if !self.seen.contains_key(service) {
            let counted = if self.seen.len() < SERVICES_MAX { service.clone() } else { None };
            self.seen.entry(counted).or_default();
        }
        let names = match self.seen.get_mut(service) {
            Some(names) => names,
            None => self.seen.entry(None).or_default(),
        };
        if names.contains(&hash) {
            return;
        }
        if names.len() < self.names_max {
            names.insert(hash);
            return;
        }
        losses.add(Loss::NameBound, 1);
        let word = span.span().name.split(' ').next().unwrap_or_default();
        let name = if word.len() == span.span().name.len() { OTHER.into() } else { format!("{word} {OTHER}").into() };
        span.rename(name, OTHER);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_match_whole_paths() {
        let check = |route, path, expected| {
            assert_eq!(Route::parse(route).expect("a route").matches(path), expected, "{route} {path}");
        };
        check("/order/{id}", "/order/4711", true);
        check("/order/{id}", "/order/", false);
        check("/order/{id}", "/order/1/items", false);
        check("/order/{id}/*", "/order/1/items/2", true);
        check("/order/{id}/*", "/order/1", true);
        check("/", "/", true);
        check("/", "/x", false);
        check("/a", "a", false);
    }

    #[test]
    fn a_bad_route_says_why() {
        let check = |route, expected| assert_eq!(Route::parse(route), Err(expected), "{route}");
        check("order", RouteError::Relative);
        check("/order-{id}", RouteError::Placeholder);
        check("/{}", RouteError::Placeholder);
        check("/*/x", RouteError::Rest);
    }
}
