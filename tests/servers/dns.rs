//! dnsmasq and unbound, asked by dig, glibc and dnsperf over UDP and TCP: as many spans as the server wrote lines, at both ends, each
//! with its name, kind and code.
//!
//! Truth: the servers' own logs of queries (unbound's say the code too), and the codes that dig printed.

use std::{collections::BTreeMap, fmt::Write, net::Ipv4Addr, path::PathBuf, time::Duration};

use spantap_tests::{
    clock,
    http::Place,
    namespace::Namespace,
    process::{Launch, Process, tool},
    resolver::resolv_conf,
    span::Span,
    temp::TempDir,
    traced::Traced,
};

use super::{count, node::traced};

const BOUND: Duration = Duration::from_secs(30);
const ENDS: [&str; 2] = ["client", "server"];
const NEAR: &str = "127.0.0.1";
const FAR: &str = "127.0.0.2";

/// How often each `<name> <kind> <code>` was seen.
type Counts = BTreeMap<String, usize>;

/// The same without the codes, which dnsmasq does not log.
fn asked(counts: &Counts) -> Counts {
    let mut all = Counts::new();
    for (line, count) in counts {
        let question = line.rsplit_once(' ').map_or(line.as_str(), |(question, _)| question);
        *all.entry(question.to_owned()).or_default() += count;
    }
    all
}

/// A running server on port 53 of a namespace. It knows every name below `there.test`, none below `absent.test`, and is not
/// responsible for others.
struct NameServer {
    process: Process,
    folder: TempDir,
}

impl NameServer {
    fn start(place: Place, ip: &str, launch: impl FnOnce(&TempDir) -> Launch) -> Self {
        let folder = TempDir::new("dns");
        let launch = launch(&folder).stderr_to(&folder.join("stderr"));
        let mut process = place.apply(launch).spawn();
        let ip: Ipv4Addr = ip.parse().expect("an address");
        let namespace = place.namespace.expect("a namespace of the test's own");
        // `/proc/net` is the namespace of the process's first thread; this is that of the calling one. 0A: it listens.
        let listens = format!(": {:08X}:0035 00000000:0000 0A", u32::from_le_bytes(ip.octets()));
        clock::wait_for("the name server listens", BOUND, || {
            let said = || std::fs::read_to_string(folder.join("stderr")).unwrap_or_default();
            assert!(process.ended().is_none(), "it ended: {}", said());
            let sockets = namespace.enter(|| std::fs::read_to_string("/proc/thread-self/net/tcp"));
            sockets.expect("the sockets of the namespace").contains(&listens).then_some(())
        });
        Self { process, folder }
    }

    fn dnsmasq(place: Place, ip: &str) -> Self {
        Self::start(place, ip, |folder| {
            Launch::new(tool("dnsmasq"))
                .args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root"])
                .args(["--bind-interfaces", "--pid-file=", "--address=/there.test/192.0.2.7", "--local=/there.test/"])
                .args(["--local=/absent.test/", "--cache-size=0", "--log-queries", &format!("--listen-address={ip}")])
                .arg(format!("--log-facility={}", folder.join("log").display()))
        })
    }

    /// What it does not know it asks of the server at `forward`.
    fn unbound(place: Place, ip: &str, forward: Option<&str>) -> Self {
        Self::start(place, ip, |folder| {
            let mut config = format!(
                "server:\n interface: {ip}\n do-daemonize: no\n username: \"\"\n chroot: \"\"\n pidfile: \"\"\n \
                 directory: \"{folder}\"\n use-syslog: no\n logfile: \"{folder}/log\"\n log-replies: yes\n \
                 log-tag-queryreply: yes\n module-config: iterator\n qname-minimisation: no\n num-threads: 1\n \
                 incoming-num-tcp: 100\n do-not-query-localhost: no\n do-ip6: no\n",
                folder = folder.path().display()
            );
            let zones = match forward {
                Some(forward) => {
                    format!(" local-zone: \"test.\" nodefault\nforward-zone:\n name: \".\"\n forward-addr: {forward}\n")
                }
                None => " local-zone: \"there.test.\" redirect\n local-data: \"there.test. A 192.0.2.7\"\n \
                          local-zone: \"absent.test.\" always_nxdomain\n local-zone: \"other.test.\" always_refuse\n"
                    .to_owned(),
            };
            config.push_str(&zones);
            Launch::new(tool("unbound")).args(["-d", "-c"]).arg(folder.write("unbound.conf", config))
        })
    }

    fn lines(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).expect("the server's log")
    }

    /// `… query[A] a.there.test from 127.0.0.1`
    fn dnsmasq_log(&self) -> Counts {
        let question = |line: &str| {
            let (kind, rest) = line.split_once("query[")?.1.split_once("] ")?;
            Some(format!("{} {kind}", rest.split(' ').next()?))
        };
        count(self.lines().lines().filter_map(question))
    }

    /// `… reply: 127.0.0.1 a.there.test. A IN NOERROR 0.000000 0 46`
    fn unbound_log(&self) -> Counts {
        let answer = |line: &str| {
            let words: Vec<&str> = line.split_once(" reply: ")?.1.split(' ').collect();
            let &[_, name, kind, _, code, ..] = words.as_slice() else { return None };
            Some(format!("{} {kind} {code}", name.trim_end_matches('.')))
        };
        count(self.lines().lines().filter_map(answer))
    }

    /// Ends it, so that its log is whole.
    fn stop(&mut self) {
        self.process.terminate(BOUND);
    }
}

/// Questions that nobody else asks, of each kind and for each code.
fn questions(client: usize, count: usize) -> String {
    let mut lines = String::new();
    for index in 0..count {
        let zone = ["there.test", "absent.test", "there.test", "other.test"][index % 4];
        let kind = ["A", "AAAA", "MX"][index % 3];
        writeln!(lines, "c{client}-n{index}.{zone} {kind}").expect("write to a string");
    }
    lines
}

/// Runs so many of dig at once, each asks so many questions one after the other; gives what they printed.
fn dig(place: Place, clients: usize, each: usize, args: &[&str]) -> Counts {
    let folder = TempDir::new("dig");
    let start = |client: usize| {
        let file = folder.write(&format!("{client}"), questions(client, each));
        let launch = Launch::new(tool("dig")).args([&format!("@{NEAR}"), "+noall", "+comments", "+question"]);
        let launch = launch.args(["+tries=1", "+timeout=20"]).args(args).arg("-f").arg(file);
        place.apply(launch.stdout_piped()).spawn()
    };
    let running: Vec<Process> = (0..clients).map(start).collect();
    let said: Vec<String> = running.into_iter().map(|process| process.finish(BOUND)).collect();
    let counts = count(said.iter().flat_map(|text| dig_answers(text)));
    assert_eq!(counts.values().sum::<usize>(), clients * each, "{said:?}");
    counts
}

/// `;; ->>HEADER<<- opcode: QUERY, status: NXDOMAIN, id: 1`, later `;a.absent.test. IN A`
fn dig_answers(text: &str) -> Vec<String> {
    let mut answers = Vec::new();
    let mut code = "";
    for line in text.lines() {
        if let Some((_, rest)) = line.split_once("status: ") {
            code = rest.split(',').next().unwrap_or_default();
        } else if let Some(question) = line.strip_prefix(';').filter(|rest| !rest.starts_with([';', ' '])) {
            let mut words = question.split_whitespace();
            let (name, kind) = (words.next().unwrap_or_default(), words.next_back().unwrap_or_default());
            answers.push(format!("{} {kind} {code}", name.trim_end_matches('.')));
        }
    }
    answers
}

/// What the spans of an end say of the server at `ip`. All that goes there is DNS, and its status follows from its code.
fn seen(spans: &[Span], kind: &str, ip: &str) -> Counts {
    let there = format!("{ip}:53");
    let of = |span: &&Span| span.kind == kind && there == *if kind == "client" { &span.peer } else { &span.local };
    let told = |span: &Span| {
        assert_eq!(span.protocol, "dns", "{span:#?}");
        let code = span.text("spantap.dns.rcode");
        let kind_asked = span.name.strip_prefix("dns ").unwrap_or(&span.name);
        if code.is_empty() {
            return format!(
                "{} {kind_asked} {}:{}",
                span.text("dns.question.name"),
                span.status,
                span.text("error.type")
            );
        }
        // The server itself failed only if it says so.
        let failed = code == "SERVFAIL" || kind == "client" && !["NOERROR", "NXDOMAIN"].contains(&code);
        assert_eq!(span.status, if failed { "error" } else { "ok" }, "{span:#?}");
        assert_eq!(span.text("error.type"), if failed { code } else { "" }, "{span:#?}");
        format!("{} {kind_asked} {code}", span.text("dns.question.name"))
    };
    count(spans.iter().filter(of).map(told))
}

/// Fails with what is not in both.
fn assert_same(what: &str, found: &Counts, truth: &Counts, traced: &Traced) {
    let differ = |(line, count): &(&String, &usize), other: &Counts| other.get(*line) != Some(*count);
    let more: Vec<_> = found.iter().filter(|entry| differ(entry, truth)).collect();
    let less: Vec<_> = truth.iter().filter(|entry| differ(entry, found)).collect();
    assert!(more.is_empty() && less.is_empty(), "{what}: {more:?}, not {less:?}; lost: {:?}", traced.agent.losses());
}

/// All spans, once so many of each end of the server at `ip` are there and no more come.
fn wait(traced: &Traced, ip: &str, total: usize) -> Vec<Span> {
    traced.agent.wait_for("spans of all lookups", BOUND, |spans| {
        let there = format!("{ip}:53");
        let clients = spans.iter().filter(|span| span.kind == "client" && span.peer == there).count();
        let servers = spans.iter().filter(|span| span.kind == "server" && span.local == there).count();
        clients >= total && servers >= total
    })
}

/// Both ends say the same as the client and the server.
fn dig_and(server: &str, clients: usize, each: usize, args: &[&str]) {
    let (traced, namespace) = (traced(server), Namespace::new());
    let place = traced.place().namespace(&namespace);
    let mut running = match server {
        "dnsmasq" => NameServer::dnsmasq(place, NEAR),
        _ => NameServer::unbound(place, NEAR, None),
    };
    let said = dig(place, clients, each, args);
    let spans = wait(&traced, NEAR, clients * each);
    running.stop();
    match server {
        "dnsmasq" => assert_eq!(running.dnsmasq_log(), asked(&said), "dig against the log"),
        _ => assert_eq!(running.unbound_log(), said, "dig against the log"),
    }
    for kind in ENDS {
        assert_same(kind, &seen(&spans, kind, NEAR), &said, &traced);
    }
}

#[test]
fn dnsmasq_has_a_span_for_each_question_of_dig() {
    dig_and("dnsmasq", 1, 60, &[]);
}

#[test]
fn dnsmasq_has_a_span_for_each_question_of_fifty_clients() {
    dig_and("dnsmasq", 50, 8, &[]);
}

#[test]
fn dnsmasq_has_a_span_for_each_question_over_tcp() {
    dig_and("dnsmasq", 1, 24, &["+tcp"]);
}

#[test]
fn dnsmasq_has_a_span_for_each_question_of_one_connection() {
    dig_and("dnsmasq", 1, 24, &["+tcp", "+keepopen"]);
}

#[test]
fn unbound_has_a_span_for_each_question_of_dig() {
    dig_and("unbound", 1, 60, &[]);
}

#[test]
fn unbound_has_a_span_for_each_question_of_fifty_clients() {
    dig_and("unbound", 50, 8, &[]);
}

#[test]
fn unbound_has_a_span_for_each_question_of_fifty_connections() {
    dig_and("unbound", 50, 4, &["+tcp", "+keepopen"]);
}

/// Runs dnsperf with fifty sockets; gives how often it got each code.
fn dnsperf(server: &str, mode: &str) {
    let (traced, namespace) = (traced(server), Namespace::new());
    let place = traced.place().namespace(&namespace);
    let mut running = NameServer::unbound(place, NEAR, None);
    let folder = TempDir::new("dnsperf");
    let file = folder.write("questions", questions(0, 2000));
    let launch = Launch::new(tool("dnsperf")).args(["-s", NEAR, "-m", mode, "-c", "50", "-n", "1", "-t", "20", "-d"]);
    let said = place.apply(launch.arg(file)).run();
    assert!(said.contains("Queries completed:    2000 "), "{said}");
    let spans = wait(&traced, NEAR, 2000);
    running.stop();
    let log = running.unbound_log();
    assert_eq!(log.values().sum::<usize>(), 2000, "lines of the log");
    for kind in ENDS {
        assert_same(kind, &seen(&spans, kind, NEAR), &log, &traced);
    }
}

#[test]
fn dnsperf_with_fifty_sockets_gets_a_span_for_each_question() {
    dnsperf("dnsperf-udp", "udp");
}

#[test]
fn dnsperf_with_fifty_connections_gets_a_span_for_each_question() {
    dnsperf("dnsperf-tcp", "tcp");
}

#[test]
fn both_questions_of_glibc_have_a_span() {
    let (traced, namespace, folder) = (traced("getent"), Namespace::new(), TempDir::new("getent"));
    let place = traced.place().namespace(&namespace);
    let mut server = NameServer::dnsmasq(place, NEAR);
    let resolver: PathBuf = resolv_conf(&folder, NEAR, "");
    let place = Place { resolver: Some(&resolver), ..place };
    let names = |zone: &str| (0..20).map(|index| format!("n{index}.{zone}")).collect::<Vec<_>>();
    let there = place.apply(Launch::new(tool("getent")).arg("ahosts").args(names("there.test"))).run();
    assert_eq!(there.matches("192.0.2.7 ").count(), 20 * 3, "stream, datagram, raw: {there}");
    let absent = place.apply(Launch::new(tool("getent")).arg("ahosts").args(names("absent.test"))).output();
    assert_eq!((absent.status.code(), absent.stdout), (Some(2), Vec::new()), "getent's word for names that are absent");
    let spans = wait(&traced, NEAR, 80);
    server.stop();
    let truth: Counts = [("there.test", "NOERROR"), ("absent.test", "NXDOMAIN")]
        .into_iter()
        .flat_map(|(zone, code)| names(zone).into_iter().map(move |name| (name, code)))
        .flat_map(|(name, code)| ["A", "AAAA"].map(|kind| (format!("{name} {kind} {code}"), 1)))
        .collect();
    assert_eq!(server.dnsmasq_log(), asked(&truth), "the log");
    for kind in ENDS {
        assert_same(kind, &seen(&spans, kind, NEAR), &truth, &traced);
    }
}

#[test]
fn a_chain_of_name_servers_has_the_spans_of_each() {
    let (traced, namespace) = (traced("dns-chain"), Namespace::new());
    let place = traced.place().namespace(&namespace);
    let mut far = NameServer::dnsmasq(place, FAR);
    let mut near = NameServer::unbound(place, NEAR, Some(FAR));
    let said = dig(place, 10, 6, &[]);
    let spans = wait(&traced, NEAR, 60);
    far.stop();
    near.stop();
    assert_eq!(near.unbound_log(), said, "dig against unbound's log");
    let log = far.dnsmasq_log();
    assert!(log.len() >= 60, "{log:?}");
    for kind in ENDS {
        assert_same(kind, &seen(&spans, kind, NEAR), &said, &traced);
        assert_same(kind, &asked(&seen(&spans, kind, FAR)), &log, &traced);
    }
}
