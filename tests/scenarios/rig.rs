//! Arranges a scenario and runs it once.
//!
//! In: a scenario, the name of a run, and the cgroup that the agent traces, if there is one. Out: the requests with their facts.
//! Everything that it starts ends with it. Client and server have a network namespace each, made for this run.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde_json::{Map, Value};
use spantap_tests::{
    cgroup::{Cgroup, Limit},
    disk::SlowDisk,
    http::{Client, Place, Server, actor},
    namespace::Namespace,
    nginx::Nginx,
    process::{Launch, Process, tool},
    resolver::{Dnsmasq, NameServer, resolv_conf},
    temp::TempDir,
    tun::{self, Delays, Tun},
};

use crate::{
    facts::{Request, add_batches, object},
    file::{self, End, Scenario},
};

const VETH_SERVER: &str = "10.99.0.2";
const PERIOD: Duration = Duration::from_millis(100);

/// Both namespaces and what joins them.
struct Link {
    client: Namespace,
    server: Namespace,
    tun: Option<Tun>,
}

/// A running server of whatever kind.
enum Answering {
    Own(Server),
    Nginx { _guard: Nginx },
    Nobody,
}

/// Runs it.
pub fn run(scenario: &Scenario, name: &str, traced: Option<&Cgroup>) -> Vec<Request> {
    let link = Link::new(&scenario.path);
    // Everything of the rig goes before the host's other work, so that only what is injected is slow.
    let first = Limit::cpu_first();
    let place = |end: End| Place {
        cgroup: traced.filter(|_| scenario.traced.contains(&end)),
        namespace: Some(if end == End::Client { &link.client } else { &link.server }),
        limits: [Some(&first), None],
        ..Place::default()
    };
    let folder = TempDir::new("rig");
    let names = scenario.dns.as_ref().map(|dns| NameServer::start(place(End::Server), link.server_ip(), &dns.args));
    let dnsmasq = scenario.dns.as_ref().filter(|dns| dns.through_dnsmasq);
    let _dnsmasq = dnsmasq.map(|_| Dnsmasq::start(Place { cgroup: None, ..place(End::Client) }, link.server_ip()));
    let resolver = scenario.dns.as_ref().map(|dns| {
        let server = if dns.through_dnsmasq { "127.0.0.1" } else { link.server_ip() };
        resolv_conf(&folder, server, &dns.options)
    });

    let disk = scenario.server.disk_reads.map(SlowDisk::new);
    let quota = scenario.server.quota_ms.map(|ms| Limit::cpu(Duration::from_millis(ms), PERIOD));
    let downstream = scenario.downstream.as_ref().map(|server| {
        let args: Vec<&str> = server.args.iter().map(String::as_str).collect();
        Server::start_with(place(End::Downstream), "127.0.0.1:8081", &args)
    });
    let mut more: Vec<String> = downstream.iter().map(|server| format!("downstream={}", server.address)).collect();
    more.extend(disk.iter().map(|disk| format!("disk={}", disk.device())));
    let server_place = Place {
        cpu: scenario.server.cpu,
        limits: [quota.as_ref().or(Some(&first)), disk.as_ref().map(|disk| &disk.limit)],
        ..place(End::Server)
    };
    let (address, server) = link.start_server(&scenario.server, server_place, &folder, &more);
    let _hogs: Vec<Process> = scenario.hogs.iter().flat_map(|hog| hogs(hog, &first)).collect();

    let host = scenario.client.host.as_deref();
    let address = host.map_or(address.clone(), |host| address.replace(link.server_ip(), host));
    let client_place = Place { cpu: scenario.client.cpu, resolver: resolver.as_deref(), ..place(End::Client) };
    let mut requests = ask(&scenario.client, &scenario.runs[name], client_place, &address);
    assert!(!requests.is_empty(), "{name}: the client made no request");

    let throttled = quota.as_ref().map(Limit::throttled_ns);
    server.tell(&mut requests);
    if let (Some(names), Some(host)) = (&names, host) {
        let lines: Vec<Map<String, Value>> = names.queries().iter().map(|line| object(line)).collect();
        requests.iter_mut().for_each(|request| request.add_queries(&lines, host));
    }
    link.tell(&mut requests, throttled);
    requests
}

impl Link {
    fn new(path: &file::Path) -> Self {
        let (client, server) = (Namespace::new(), Namespace::new());
        let ms = Duration::from_millis;
        let tun = if path.veth {
            client.join_by_veth(&server);
            None
        } else {
            let (to_server, to_client) = (ms(path.there_ms), ms(path.back_ms));
            let (syn_more, tls_more) = (ms(path.syn_more_ms), ms(path.tls_more_ms));
            let tun = Tun::join_with(&client, &server, Delays { to_server, to_client, syn_more, tls_more });
            if !path.client_bucket.is_empty() {
                client.token_bucket(&tun.client_device, &path.client_bucket);
            }
            if !path.server_bucket.is_empty() {
                server.token_bucket(&tun.server_device, &path.server_bucket);
            }
            Some(tun)
        };
        for (name, value) in &path.client_sysctl {
            client.sysctl(name, value);
        }
        for (namespace, rules) in [(&client, &path.client_rules), (&server, &path.server_rules)] {
            if !rules.is_empty() {
                let sets = "set seen { type inet_service; flags dynamic; size 4096; };";
                let chain = format!("chain in {{ type filter hook prerouting priority -300; {}; }};", rules.join("; "));
                namespace.nft(&format!("table ip rig {{ {sets} {chain} }}"));
            }
        }
        Self { client, server, tun }
    }

    fn server_ip(&self) -> &'static str {
        if self.tun.is_some() { tun::SERVER } else { VETH_SERVER }
    }

    /// Starts who answers, and gives the address as well.
    fn start_server(
        &self,
        server: &file::Server,
        place: Place,
        folder: &TempDir,
        more: &[String],
    ) -> (String, Answering) {
        let path: PathBuf = folder.join("s");
        let port = if server.program == "nginx_tls" { 8443 } else { 8080 };
        let address =
            if server.unix { format!("unix:{}", path.display()) } else { format!("{}:{port}", self.server_ip()) };
        let args: Vec<&str> = server.args.iter().chain(more).map(String::as_str).collect();
        let answering = match server.program.as_str() {
            "server" => {
                let args = [args.as_slice(), &["log=1"]].concat();
                Answering::Own(Server::start_with(place, &address, &args))
            }
            "udp_server" => Answering::Own(Server::start_actor(place, "udp_server", &address, &args)),
            "nginx_tls" => Answering::Nginx { _guard: Nginx::start_tls(place, address.clone()) },
            "none" => Answering::Nobody,
            other => panic!("no server `{other}`"),
        };
        (address, answering)
    }

    /// Adds what the forwarder and the kernel's counters say.
    fn tell(&self, requests: &mut [Request], throttled_ns: Option<u64>) {
        let passages = self.tun.as_ref().map(Tun::passages).unwrap_or_default();
        let retransmits = |namespace: &Namespace| namespace.counter("Tcp", "RetransSegs") as i64;
        let mut run = BTreeMap::from([
            ("run.client_retransmits".to_owned(), retransmits(&self.client)),
            ("run.server_retransmits".to_owned(), retransmits(&self.server)),
            ("run.listen_overflows".to_owned(), self.server.counter("TcpExt", "ListenOverflows") as i64),
            ("run.requests".to_owned(), requests.len() as i64),
        ]);
        run.extend(throttled_ns.map(|ns| ("run.throttled_ns".to_owned(), ns as i64)));
        for request in requests {
            request.facts.extend(run.clone());
            request.add_passages(&passages);
        }
    }
}

impl Answering {
    /// Adds what the server says of each request that it answered.
    fn tell(&self, requests: &mut [Request]) {
        let Self::Own(server) = self else { return };
        let fact = |request: &Request, name| request.facts.get(name).copied().unwrap_or_default();
        // Who gave up is answered nevertheless.
        let gave_up = |request| fact(request, "client.errno") == i64::from(libc::EAGAIN);
        let answered = requests.iter().filter(|request| fact(request, "client.status") > 0 || gave_up(request));
        for line in server.lines(answered.count()).iter().chain(&server.lines_so_far()) {
            let fields = object(line);
            let path = fields.get("path").and_then(Value::as_str).unwrap_or_default();
            if let Some(request) = requests.iter_mut().find(|request| request.path == path) {
                request.add("server", &fields);
            }
        }
        add_batches(requests);
    }
}

/// Runs the client and reads what it says.
fn ask(client: &file::Client, more: &[String], place: Place, address: &str) -> Vec<Request> {
    let args: Vec<&str> = client.args.iter().chain(more).map(String::as_str).collect();
    match client.program.as_str() {
        "curl" => curl(place, address, &args),
        program => {
            let text = Client::start_actor(place, program, address, &args).finish_text();
            text.lines().map(Request::of_client).collect()
        }
    }
}

/// Runs curl: arguments that begin with `/` are targets, and each has a transfer of its own.
fn curl(place: Place, address: &str, args: &[&str]) -> Vec<Request> {
    let (targets, options): (Vec<&str>, Vec<&str>) = args.iter().partition(|arg| arg.starts_with('/'));
    let scheme = if address.ends_with(":8443") { "https" } else { "http" };
    let urls = targets.iter().map(|target| format!("{scheme}://{address}{target}"));
    let launch = Launch::new(tool("curl")).args(["-sS", "--insecure", "--write-out", "%{json}\n", "--max-time", "30"]);
    let launch = launch.args(options).args(urls.flat_map(|url| ["-o".to_owned(), "/dev/null".to_owned(), url]));
    place.apply(launch).run().lines().map(Request::of_curl).collect()
}

/// Those that are real-time need no group; the kernel would refuse them in one without a share of real time.
fn hogs(hog: &file::Hog, first: &Limit) -> impl Iterator<Item = Process> {
    let realtime = hog.args.iter().any(|arg| arg == "fifo=1");
    let place = Place { limits: [Some(first).filter(|_| !realtime), None], ..Place::default() }.cpu(hog.cpu);
    (0..hog.count).map(move |_| place.apply(actor("hog").arg("seconds=60").args(&hog.args)).spawn())
}
