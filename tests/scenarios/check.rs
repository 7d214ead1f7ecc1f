//! Holds what the agent says against what happened.
//!
//! In: a scenario's name. Out: nothing, or a panic with everything that did not fit, each with what was expected, what came and
//! what `why` says.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::Value;
use spantap_tests::{
    agent::{Agent, AgentOptions},
    span::{Segment, Span},
    traced::Traced,
};

use crate::{
    expression::{holds, value},
    facts::Request,
    file::{Expect, Scenario},
    rig,
};

const SPANS_WITHIN: Duration = Duration::from_secs(15);
/// What may always be off: reading a clock before and after a call.
const TOLERANCE_NS: u64 = 10_000;
/// For so many spans of each run `why` is asked.
const VERDICTS: usize = 4;
/// Share of the requests of which the agent may say itself that it did not see all, rounded up: some kernels hide the switches
/// from processes of their own, and how often such a one ran before a scenario's thread is not the scenario's matter.
const UNSEEN_SHARE: f64 = 0.25;

/// What does not fit a request, and whether the agent said itself that it did not see it.
struct Misfit {
    text: String,
    admitted: bool,
}

/// Runs the rig alone, in every run.
pub fn without_agent(name: &str) {
    let scenario = Scenario::read(name);
    let mut wrong = Vec::new();
    for run in scenario.runs.keys() {
        let requests = rig::run(&scenario, run, None);
        wrong.extend(not_injected(&scenario, run, &requests));
        wrong.extend(scenario.expect.iter().filter(|expect| expect.is_for(run)).flat_map(|expect| {
            let selected = selected(expect, &requests);
            let truths: Vec<_> = selected.iter().map(|request| value(&expect.truth, &request.facts)).collect();
            let ms: Vec<_> = truths.iter().flatten().map(|ns| format!("{:.2}", *ns as f64 / 1e6)).collect();
            println!("{name} {run}: {} {} truth {} ms", expect.kind, expect.segment, ms.join(" "));
            let nothing = selected.is_empty().then(|| format!("{run}: no request fits {:?}", expect.when));
            truths.into_iter().filter_map(Result::err).chain(nothing).collect::<Vec<_>>()
        }));
    }
    assert!(wrong.is_empty(), "{name}:\n{}", wrong.join("\n"));
}

/// Runs the rig beside an agent, in every run, and checks all that the file expects.
pub fn with_agent(name: &str) {
    let scenario = Scenario::read(name);
    println!("{}", scenario.about.trim());
    let traced = Traced::with(name, |options: AgentOptions| options);
    let mut wrong = Vec::new();
    for run in scenario.runs.keys() {
        let known: BTreeSet<String> = traced.agent.spans().into_iter().map(|span| span.span_id).collect();
        let requests = rig::run(&scenario, run, Some(&traced.cgroup));
        wrong.extend(not_injected(&scenario, run, &requests));
        for expect in scenario.expect.iter().filter(|expect| expect.is_for(run)) {
            wrong.extend(Check { agent: &traced.agent, run, expect, known: &known }.all(&requests));
        }
    }
    assert!(wrong.is_empty(), "{name}:\n{}", condensed(wrong).join("\n"));
}

/// The first two of each sort, and how many more there are: eight connections are wrong in the same way.
fn condensed(wrong: Vec<String>) -> Vec<String> {
    const SHOWN: usize = 2;
    let mut sorts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for text in wrong {
        let sort = text.lines().next().unwrap_or_default().replace(|c: char| c.is_ascii_digit(), "");
        sorts.entry(sort).or_default().push(text);
    }
    let show = |mut texts: Vec<String>| {
        let more = texts.split_off(SHOWN.min(texts.len())).len();
        texts.into_iter().chain((more > 0).then(|| format!("  and {more} more like it"))).collect::<Vec<_>>()
    };
    sorts.into_values().flat_map(show).collect()
}

/// Conditions of the rig that do not hold.
fn not_injected(scenario: &Scenario, run: &str, requests: &[Request]) -> Vec<String> {
    let mut wrong = Vec::new();
    for condition in &scenario.injected {
        let (some, condition) =
            condition.strip_prefix("some: ").map_or((false, condition.as_str()), |rest| (true, rest));
        let results: Vec<_> = requests.iter().map(|request| holds(condition, &request.facts)).collect();
        wrong.extend(results.iter().filter_map(|result| result.clone().err()));
        let good = if some { results.contains(&Ok(true)) } else { results.iter().all(|result| *result == Ok(true)) };
        if !good {
            let facts: Vec<_> = requests.iter().map(|request| &request.facts).collect();
            wrong.push(format!("{run}: the rig did not inject `{condition}`: {facts:#?}"));
        }
    }
    wrong
}

fn selected<'a>(expect: &Expect, requests: &'a [Request]) -> Vec<&'a Request> {
    let fits = |request: &&Request| expect.when.iter().all(|condition| holds(condition, &request.facts) == Ok(true));
    requests.iter().filter(fits).collect()
}

struct Check<'a> {
    agent: &'a Agent,
    run: &'a str,
    expect: &'a Expect,
    known: &'a BTreeSet<String>,
}

/// A request, the truth about it, and its span.
struct Pair<'a> {
    request: &'a Request,
    truth_ns: Option<u64>,
    span: &'a Span,
}

impl Check<'_> {
    fn all(&self, requests: &[Request]) -> Vec<String> {
        let selected = selected(self.expect, requests);
        if selected.is_empty() {
            return vec![self.say("no request fits `when`")];
        }
        let spans = self.spans(requests.len());
        let pairs: Result<Vec<Pair>, String> =
            selected.iter().map(|request| self.pair(request, requests, &spans)).collect();
        let pairs = match pairs {
            Ok(pairs) => pairs,
            Err(wrong) => return vec![self.say(&wrong)],
        };
        let mut wrong = self.lengths(&pairs);
        wrong.extend(self.largest(&pairs));
        wrong.extend(pairs.iter().flat_map(|pair| self.attributes(pair.span)));
        wrong.extend(self.verdicts(&pairs));
        wrong
    }

    /// The run's spans of this end, in the order of their start.
    fn spans(&self, count: usize) -> Vec<Span> {
        let own = |span: &&Span| {
            !self.known.contains(&span.span_id)
                && span.kind == self.expect.kind
                && span.protocol == self.expect.protocol
                && self.expect.name.as_ref().is_none_or(|name| span.name == *name)
        };
        let what = format!("{}: {count} spans of {} {}", self.run, self.expect.kind, self.expect.protocol);
        let enough = |spans: &[Span]| spans.iter().filter(own).count() >= count;
        let all = self.agent.wait_for(&what, SPANS_WITHIN, enough);
        let mut spans: Vec<Span> = all.iter().filter(own).cloned().collect();
        spans.sort_by_key(|span| span.start_unix_ns);
        spans
    }

    /// The span of a request: by its path where it has one, by its place in time elsewhere.
    fn pair<'a>(&self, request: &'a Request, all: &[Request], spans: &'a [Span]) -> Result<Pair<'a>, String> {
        let truth_ns = match self.expect.truth.as_str() {
            "" => None,
            sum => Some(value(sum, &request.facts)?),
        };
        let negative = |_| format!("a negative truth for {request:?}");
        let truth_ns = truth_ns.map(u64::try_from).transpose().map_err(negative)?;
        let found: Vec<&Span> = if self.expect.protocol == "http" {
            spans.iter().filter(|span| span.path() == request.path).collect()
        } else {
            if spans.len() != all.len() {
                return Err(format!("{} spans of {} requests: {spans:#?}", spans.len(), all.len()));
            }
            spans.get(place(request, all)).into_iter().collect()
        };
        match found[..] {
            [span] => Ok(Pair { request, truth_ns, span }),
            _ => Err(format!("{} spans of {}: {found:#?}", found.len(), request.path)),
        }
    }

    fn measured_ns(&self, span: &Span) -> u64 {
        let largest = std::slice::from_ref(&self.expect.segment);
        let names = if self.expect.measure.is_empty() { largest } else { &self.expect.measure };
        let total = |name: &String| match name.split_once(':') {
            Some((name, by)) => span.total_by_ns(name, by),
            None if name == "*" => span.duration_ns,
            None => span.total_ns(name),
        };
        names.iter().map(total).sum()
    }

    fn lengths(&self, pairs: &[Pair]) -> Vec<String> {
        let compare = |what: &str, seen: u64, truth: u64, unseen: u64| {
            let allowed = TOLERANCE_NS.max((truth as f64 * self.expect.tolerance) as u64);
            let off = seen.abs_diff(truth);
            let ms = |ns: u64| ns as f64 / 1e6;
            let text = || self.say(&format!("{what}: {:.3} ms seen, {:.3} ms is the truth", ms(seen), ms(truth)));
            let misfit = || Misfit { text: text(), admitted: seen < truth && off <= allowed + unseen };
            (off > allowed).then(misfit)
        };
        if self.expect.sum {
            let seen = pairs.iter().map(|pair| self.measured_ns(pair.span)).sum();
            let truths: Vec<u64> = pairs.iter().filter_map(|pair| pair.truth_ns).collect();
            let of_the_run = self.expect.truth.split_whitespace().all(|word| word.starts_with("run."));
            let truth = if of_the_run { truths[0] } else { truths.iter().sum() };
            let unseen: u64 = pairs.iter().map(|pair| pair.span.total_ns("unexplained")).sum();
            let unseen = unseen.min((truth as f64 * UNSEEN_SHARE) as u64);
            return compare("all", seen, truth, unseen)
                .filter(|misfit| !misfit.admitted)
                .map(|misfit| misfit.text)
                .into_iter()
                .collect();
        }
        let each = pairs.iter().filter_map(|pair| {
            let unseen = pair.span.total_ns("unexplained");
            let misfit = compare(&pair.request.path, self.measured_ns(pair.span), pair.truth_ns?, unseen)?;
            let text = format!("{}\n  {}\n  {:?}", misfit.text, tiles(pair.span), pair.request.facts);
            Some(Misfit { text, ..misfit })
        });
        self.beyond_share(each.collect(), pairs.len())
    }

    /// The largest segment and its evidence.
    fn largest(&self, pairs: &[Pair]) -> Vec<String> {
        let mut wrong = Vec::new();
        let named = pairs.iter().filter(|_| !self.expect.segment.is_empty());
        for Pair { span, .. } in named {
            if span.dominant() != self.expect.segment {
                let text = self.say(&format!("the largest is {}\n  {}", span.dominant(), tiles(span)));
                let at_most = span.total_ns(&self.expect.segment) + span.total_ns("unexplained");
                wrong.push(Misfit { text, admitted: at_most >= span.total_ns(span.dominant()) });
                continue;
            }
            let tiles_of = span.segments.iter().filter(|segment| segment.name == self.expect.segment);
            let odd: Vec<_> = tiles_of.filter(|segment| !self.expect.evidence.contains(&segment.evidence)).collect();
            if !odd.is_empty() {
                let text = self.say(&format!("evidence of {odd:?} is none of {:?}", self.expect.evidence));
                wrong.push(Misfit { text, admitted: odd.iter().all(|segment| segment.evidence != "measured") });
            }
        }
        self.beyond_share(wrong, pairs.len())
    }

    /// What is wrong, if more is than the share of spans that must be right leaves.
    fn beyond_share(&self, wrong: Vec<Misfit>, of: usize) -> Vec<String> {
        let allowed = of - (of as f64 * self.expect.share).ceil() as usize;
        let unseen = (of as f64 * UNSEEN_SHARE).ceil() as usize;
        let admitted = wrong.iter().filter(|misfit| misfit.admitted).count();
        let good = wrong.len() - admitted <= allowed && wrong.len() <= allowed + unseen;
        wrong.into_iter().filter(|_| !good).map(|misfit| misfit.text).collect()
    }

    fn attributes(&self, span: &Span) -> Vec<String> {
        let check = |(name, condition): (&String, &String)| {
            let good = span.attribute(name).is_some_and(|value| fits(value, condition));
            (!good).then(|| self.say(&format!("{name} is {:?}, not `{condition}`", span.attribute(name))))
        };
        self.expect.attributes.iter().filter_map(check).collect()
    }

    /// What `why` says of some spans that have the expected segment.
    fn verdicts(&self, pairs: &[Pair]) -> Vec<String> {
        let segment = &self.expect.segment;
        let fitting = pairs.iter().filter(|pair| segment.is_empty() || pair.span.dominant() == *segment);
        let mut wrong = Vec::new();
        let mut causes = BTreeSet::new();
        for Pair { span, .. } in fitting.take(if self.expect.cause.is_empty() { 0 } else { VERDICTS }) {
            let text = self.agent.answer(["why", &span.span_id, "--json"]);
            let why: Value = serde_json::from_str(text.lines().next().unwrap_or_default()).unwrap_or_default();
            let cause = why["verdict"]["cause"].as_str().unwrap_or("none").to_owned();
            if !self.expect.cause.contains(&cause) {
                wrong.push(self.say(&format!("the cause is {cause}\n  {}\n  {text}", tiles(span))));
            }
            let missing = self.expect.says.iter().filter(|words| !text.contains(words.as_str()));
            wrong.extend(missing.map(|words| self.say(&format!("why does not say `{words}`: {text}"))));
            causes.insert(cause);
        }
        if let Some(must) = self.expect.must.as_ref().filter(|must| !causes.contains(*must)) {
            wrong.push(self.say(&format!("{must} is nowhere in {causes:?}")));
        }
        wrong
    }

    fn say(&self, wrong: &str) -> String {
        let Expect { kind, segment, cause, .. } = self.expect;
        format!("[{} {kind} {segment} {cause:?}] {wrong}", self.run)
    }
}

/// The place of a request among all, by when the client began it; those that say nothing of it stay in their order.
fn place(request: &Request, all: &[Request]) -> usize {
    let start = |request: &Request| {
        ["client.connect_ns", "client.start_ns", "client.resolve_ns"]
            .iter()
            .find_map(|name| request.facts.get(*name).copied().filter(|&ns| ns > 0))
    };
    let own = (start(request), all.iter().position(|other| other.path == request.path));
    all.iter().enumerate().filter(|(index, other)| (start(other), Some(*index)) < own).count()
}

/// A span's tiles on one line.
fn tiles(span: &Span) -> String {
    let tile = |s: &Segment| {
        let by = s.by.as_deref().map(|by| format!(" by {by}")).unwrap_or_default();
        format!("{}{by} {:.3} {}", s.name, s.duration_ns as f64 / 1e6, s.evidence)
    };
    let tiles: Vec<String> = span.segments.iter().map(tile).collect();
    format!("{} {} {:.3} ms: {}", span.kind, span.name, span.duration_ns as f64 / 1e6, tiles.join(", "))
}

/// Whether an attribute fits `= words`, `> N` or `< N`.
fn fits(value: &Value, condition: &str) -> bool {
    let number = |text: &str| text.trim().parse::<f64>().ok().zip(value.as_f64());
    match condition.split_at(1) {
        ("=", words) => value.as_str().map_or_else(|| value.to_string(), str::to_owned) == words.trim(),
        (">", text) => number(text).is_some_and(|(bound, value)| value > bound),
        ("<", text) => number(text).is_some_and(|(bound, value)| value < bound),
        _ => false,
    }
}
