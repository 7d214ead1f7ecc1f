//! Watching spans for symptoms: bursts of errors, and requests that take longer than they did.
//!
//! In: what is needed of each span, in the order of the log, and the time. Out: [`Symptom`]s. Called by the agent, which then exports
//! what it had kept back. Pure. A service with a symptom is quiet for a while afterwards, so that one trouble is told once.
//!
//! Limits: [`SERVICES_MAX`] services and [`NAMES_MAX`] names; spans of others are counted as not watched. What was not seen for some
//! windows makes room.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use crate::{
    relay::Resource,
    sketch::{Sketch, Trailing},
    wire::{Kind, StatusCode, spans},
};

/// Services that are watched.
pub const SERVICES_MAX: usize = 1_024;
/// Services and names whose durations are watched, each about 3 KiB.
pub const NAMES_MAX: usize = 2_048;
/// How long durations are remembered, in windows.
const TRAILING_WINDOWS: u64 = 30;
/// Longest text of a name that is kept.
const TEXT_BYTES_MAX: usize = 256;

/// What is a symptom. Zero: that one is not looked for.
#[derive(Clone, Debug, PartialEq)]
pub struct SymptomConfig {
    /// Length of the windows that are looked at.
    pub window_ns: u64,
    /// Errors of a service in a window, at least; and
    pub errors_min: u64,
    /// the part of its spans that they are, at least, from 0 to 1.
    pub error_share_min: f64,
    /// The 99th percentile of the durations of a service and name in a window is above this.
    pub p99_ns: u64,
    /// It is above so many times that of the windows before.
    pub p99_factor: f64,
    /// Spans that a window needs to have a percentile.
    pub p99_spans_min: u64,
    /// How long a service is quiet after a symptom.
    pub cool_down_ns: u64,
}

/// What was seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Symptom {
    /// Of which service.
    pub service: String,
    /// What.
    pub kind: SymptomKind,
}

/// What was seen of a service in a window.
#[derive(Clone, Debug, PartialEq)]
pub enum SymptomKind {
    /// Many errors.
    Errors {
        /// Spans with status error.
        errors: u64,
        /// All spans.
        spans: u64,
    },
    /// A slow 99th percentile.
    Slow {
        /// Of spans of this name.
        name: String,
        /// What it was.
        p99_ns: u64,
        /// What it was compared with.
        limit_ns: u64,
    },
}

/// What is needed of a span.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// `service.name`.
    pub service: &'a [u8],
    /// Name.
    pub name: &'a [u8],
    /// Whether its status is error.
    pub is_error: bool,
    /// Whether a service begins with it: its duration counts only then.
    pub is_entry: bool,
    /// How long it took.
    pub duration_ns: u64,
}

type Map<V> = HashMap<Box<[u8]>, V, FixedState>;

/// Watches.
#[derive(Debug)]
pub struct Watch {
    config: SymptomConfig,
    window: u64,
    services: Map<Service>,
    names: usize,
    unwatched: u64,
}

#[derive(Debug, Default)]
struct Service {
    spans: u64,
    errors: u64,
    names: Map<Name>,
    /// Until when it is quiet.
    quiet_ns: u64,
}

#[derive(Debug, Default)]
struct Name {
    window: Sketch,
    before: Trailing,
}

impl Watch {
    /// With this configuration.
    pub fn new(config: SymptomConfig) -> Self {
        Self { config, window: 0, services: Map::default(), names: 0, unwatched: 0 }
    }

    /// Looks at the spans of a stored request. Bytes that are no request have those before the damage.
    pub fn look(&mut self, request: &[u8]) {
        let mut all = spans(request);
        let (mut at, mut resource) = (0..0, Resource::default());
        while let Some(Ok(span)) = all.next() {
            if at != all.resource_spans() {
                at = all.resource_spans();
                resource = Resource::read(request, at.clone()).unwrap_or_default();
            }
            self.see(&Seen {
                service: resource.service(),
                name: span.name,
                is_error: span.status == StatusCode::Error,
                is_entry: span.parent_span_id.is_empty() || matches!(span.kind, Kind::Server | Kind::Consumer),
                duration_ns: span.duration_ns(),
            });
        }
    }

    /// Looks at a span.
    pub fn see(&mut self, seen: &Seen<'_>) {
        if self.services.len() >= SERVICES_MAX && !self.services.contains_key(seen.service) {
            self.unwatched += 1;
            return;
        }
        let service = entry(&mut self.services, seen.service);
        service.spans += 1;
        service.errors += u64::from(seen.is_error);
        let wants_durations = self.config.p99_ns > 0 || self.config.p99_factor > 0.0;
        if !seen.is_entry || !wants_durations {
            return;
        }
        if !service.names.contains_key(seen.name) {
            if self.names >= NAMES_MAX {
                self.unwatched += 1;
                return;
            }
            self.names += 1;
        }
        entry(&mut service.names, seen.name).window.add(seen.duration_ns);
    }

    /// The time, before the spans of that time: what was seen by now. Errors show at once, durations at the end of a window.
    pub fn tick(&mut self, now_ns: u64) -> Vec<Symptom> {
        let window = now_ns / self.config.window_ns.max(1);
        let ends = window != self.window;
        self.window = window;
        let mut symptoms = Vec::new();
        for (name, service) in &mut self.services {
            let slow = if ends { service.end(&self.config, now_ns) } else { None };
            let kind = service.errors(&self.config).or(slow);
            if ends {
                (service.spans, service.errors) = (0, 0);
            }
            if ends {
                service.names.retain(|_, name| !name.before.is_empty());
            }
            if let Some(kind) = kind.filter(|_| now_ns >= service.quiet_ns) {
                service.quiet_ns = now_ns.saturating_add(self.config.cool_down_ns);
                symptoms.push(Symptom { service: text(name), kind });
            }
        }
        if ends {
            self.services.retain(|_, service| !service.names.is_empty() || service.quiet_ns > now_ns);
            self.names = self.services.values().map(|service| service.names.len()).sum();
        }
        symptoms
    }

    /// Spans of services or names for which there was no room.
    pub fn unwatched(&self) -> u64 {
        self.unwatched
    }
}

impl Service {
    fn errors(&self, config: &SymptomConfig) -> Option<SymptomKind> {
        let share = self.errors as f64 / self.spans.max(1) as f64;
        let is_burst = config.errors_min > 0 && self.errors >= config.errors_min && share >= config.error_share_min;
        is_burst.then_some(SymptomKind::Errors { errors: self.errors, spans: self.spans })
    }

    /// Ends the window of its names; gives the one that is farthest above its limit.
    fn end(&mut self, config: &SymptomConfig, now_ns: u64) -> Option<SymptomKind> {
        let over = |slow: &(f64, SymptomKind)| slow.0;
        let slow = self.names.iter_mut().filter_map(|(name, durations)| durations.end(name, config, now_ns));
        slow.max_by(|one, other| over(one).total_cmp(&over(other))).map(|(_, kind)| kind)
    }
}

impl Name {
    fn end(&mut self, name: &[u8], config: &SymptomConfig, now_ns: u64) -> Option<(f64, SymptomKind)> {
        let p99 = self.window.quantile(0.99).filter(|_| self.window.len() >= config.p99_spans_min.max(1));
        let before = self.before.quantile(0.99).filter(|_| self.before.len() >= config.p99_spans_min.max(1));
        let by_factor = before.filter(|_| config.p99_factor > 0.0).map(|p99| (p99 as f64 * config.p99_factor) as u64);
        let fixed = Some(config.p99_ns).filter(|limit| *limit > 0);
        let limit = fixed.into_iter().chain(by_factor).min();
        let turn = config.window_ns.saturating_mul(TRAILING_WINDOWS);
        self.before.join(&self.window, now_ns, turn);
        self.window.clear();
        let (p99_ns, limit_ns) = p99.zip(limit).filter(|(p99, limit)| p99 > limit)?;
        let over = p99_ns as f64 / limit_ns.max(1) as f64;
        Some((over, SymptomKind::Slow { name: text(name), p99_ns, limit_ns }))
    }
}

fn entry<'a, V: Default>(map: &'a mut Map<V>, key: &[u8]) -> &'a mut V {
    if !map.contains_key(key) {
        map.insert(key.into(), V::default());
    }
    map.get_mut(key).expect("it was just put in")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(TEXT_BYTES_MAX)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const S: u64 = 1_000 * MS;
    const T: u64 = 1_000_000 * S;

    fn config() -> SymptomConfig {
        SymptomConfig {
            window_ns: 10 * S,
            errors_min: 5,
            error_share_min: 0.1,
            p99_ns: 0,
            p99_factor: 0.0,
            p99_spans_min: 20,
            cool_down_ns: 60 * S,
        }
    }

    fn see(watch: &mut Watch, service: &str, count: u64, is_error: bool, ms: u64) {
        let (service, duration_ns) = (service.as_bytes(), ms * MS);
        for _ in 0..count {
            watch.see(&Seen { service, name: b"GET /", is_error, is_entry: true, duration_ns });
        }
    }

    fn services(symptoms: &[Symptom]) -> Vec<&str> {
        let mut all: Vec<&str> = symptoms.iter().map(|symptom| symptom.service.as_str()).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn a_burst_needs_errors_and_their_share_and_is_told_once() {
        let mut watch = Watch::new(config());
        assert_eq!(watch.tick(T), []);
        see(&mut watch, "busy", 100, false, 1);
        see(&mut watch, "busy", 5, true, 1);
        see(&mut watch, "few", 4, true, 1);
        assert_eq!(watch.tick(T + S), []);
        see(&mut watch, "few", 1, true, 1);
        see(&mut watch, "few", 1, false, 1);
        let symptoms = watch.tick(T + 2 * S);
        assert_eq!(services(&symptoms), ["few"]);
        assert_eq!(symptoms[0].kind, SymptomKind::Errors { errors: 5, spans: 6 });
        assert_eq!(watch.tick(T + 3 * S), [], "it is quiet now");
        assert_eq!(watch.tick(T + 12 * S), [], "a new window begins with nothing");
        see(&mut watch, "few", 9, true, 1);
        see(&mut watch, "busy", 50, true, 1);
        assert_eq!(services(&watch.tick(T + 13 * S)), ["busy"]);
        see(&mut watch, "few", 9, true, 1);
        assert_eq!(services(&watch.tick(T + 62 * S)), ["few"], "after the time of quiet");
    }

    #[test]
    fn durations_are_compared_with_a_bound_and_with_those_before() {
        let mut fixed = Watch::new(SymptomConfig { p99_ns: 500 * MS, ..config() });
        let mut relative = Watch::new(SymptomConfig { p99_factor: 3.0, ..config() });
        for watch in [&mut fixed, &mut relative] {
            assert_eq!(watch.tick(T), []);
            see(watch, "shop", 100, false, 100);
            see(watch, "rare", 19, false, 900);
            assert_eq!(watch.tick(T + 5 * S), [], "durations show at the end of a window");
            assert_eq!(watch.tick(T + 10 * S), []);
            see(watch, "shop", 95, false, 100);
            see(watch, "shop", 5, false, 800);
            let symptoms = watch.tick(T + 20 * S);
            assert_eq!(services(&symptoms), ["shop"]);
            assert!(
                matches!(&symptoms[0].kind, SymptomKind::Slow { name, p99_ns, .. } if name == "GET /" && *p99_ns > 700 * MS)
            );
        }
        see(&mut relative, "shop", 100, false, 800);
        assert_eq!(relative.tick(T + 90 * S), [], "what was slow before is usual");
        see(&mut fixed, "shop", 100, false, 800);
        assert_eq!(services(&fixed.tick(T + 90 * S)), ["shop"]);
    }

    #[test]
    fn services_beyond_the_bound_are_counted() {
        let mut watch = Watch::new(config());
        for number in 0..SERVICES_MAX + 5 {
            see(&mut watch, &number.to_string(), 5, true, 1);
        }
        assert_eq!((watch.unwatched(), watch.tick(T).len()), (25, SERVICES_MAX));
        watch.tick(T + 70 * S);
        see(&mut watch, "another", 5, true, 1);
        assert_eq!((watch.unwatched(), services(&watch.tick(T + 71 * S))), (25, vec!["another"]));
    }
}
