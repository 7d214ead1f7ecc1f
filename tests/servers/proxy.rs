//! HAProxy, Envoy and Caddy in front of a server, with configurations of the tests' own.
//!
//! In: where the server is. Out: what the proxy's log says, and how many of its connections failed.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use spantap_tests::{
    clock,
    http::Place,
    nginx::certificate,
    process::{Launch, Process, tool},
    python::packaged,
    temp::{TempDir, free_port},
};

use super::{caddy, count};

const BOUND: Duration = Duration::from_secs(30);
/// Where nobody listens: what is asked for under `/down/` goes there.
pub const DEAD: &str = "127.0.0.1:1";

/// Status and path of a request, and how often it was there.
pub type Told = BTreeMap<(u64, String), usize>;

/// A running proxy in front of a server. Its log has a line per request: `<status> <path>`, or Caddy's JSON.
pub struct Proxy {
    /// Its process.
    pub process: Process,
    log: PathBuf,
    _folder: TempDir,
    /// `ip:port` that it listens on.
    pub address: String,
    /// `ip:port` where it tells how many of its connections failed; without, each request has one of its own.
    admin: Option<String>,
}

impl Proxy {
    /// HAProxy.
    pub fn haproxy(place: Place, server: &str) -> Self {
        let (folder, address) = (TempDir::new("haproxy"), format!("127.0.0.1:{}", free_port()));
        let log = folder.join("log");
        let config = folder.write("haproxy.cfg", haproxy_configuration(&address, server));
        let launch = Launch::new(tool("haproxy")).args(["-db", "-f"]).arg(config);
        let process = place.apply(launch.stdout_to(&log).stderr_to(&folder.join("stderr"))).spawn();
        Self { process, log, _folder: folder, address, admin: None }.ready()
    }

    /// Envoy, with a certificate of its own if it shall speak TLS to its clients.
    pub fn envoy(place: Place, server: &str, tls: bool) -> Self {
        let (folder, address) = (TempDir::new("envoy"), format!("127.0.0.1:{}", free_port()));
        let log = folder.join("log");
        let admin = format!("127.0.0.1:{}", free_port());
        let config = folder.write("envoy.json", envoy_configuration(&folder, [&address, &admin], server, tls));
        // A hot restart would keep memory in /dev/shm.
        let launch = Launch::new(packaged("envoy/_bin/envoy")).arg("--disable-hot-restart").arg("-c").arg(config);
        let launch = launch.args(["--concurrency", "2", "--base-id-path"]).arg(folder.join("id"));
        let launch = launch.args(["--use-dynamic-base-id", "--file-flush-interval-msec", "100"]);
        let launch = launch.stdout_to(&folder.join("stdout")).stderr_to(&folder.join("stderr"));
        let process = place.apply(launch).spawn();
        Self { process, log, _folder: folder, address, admin: Some(admin) }.ready()
    }

    /// Caddy, which asks anew for each request that its server refused.
    pub fn caddy(place: Place, server: &str) -> Self {
        let (folder, address) = (TempDir::new("caddy"), format!("127.0.0.1:{}", free_port()));
        let routes = format!("handle /down/* {{\n reverse_proxy {DEAD}\n}}\nhandle {{\n reverse_proxy {server}\n}}\n");
        let (_, port) = address.split_once(':').expect("address and port");
        let site = caddy::site(&folder, &format!("http://:{port}"), &routes);
        let process = caddy::launch(place, &folder, &site).spawn();
        Self { process, log: folder.join("log"), _folder: folder, address, admin: None }.ready()
    }

    fn ready(self) -> Self {
        clock::wait_for("the proxy listens", BOUND, || listens(&self.address).then_some(()));
        self
    }

    /// How many connections it tried in vain, for so many requests.
    pub fn connections_refused(&self, requests: usize) -> usize {
        let Some(admin) = &self.admin else { return requests };
        let url = format!("http://{admin}/stats?filter=^cluster.down.upstream_cx_connect_fail$");
        let text = Launch::new(tool("curl")).args(["-sS", "--max-time", "20", &url]).run();
        let number = text.trim().rsplit(' ').next().and_then(|number| number.parse().ok());
        number.unwrap_or_else(|| panic!("not a number of connections: {text}"))
    }

    /// What its log says, once it has so many lines.
    pub fn log(&self, lines: usize) -> Told {
        let text = clock::wait_for("the proxy's log has all requests", BOUND, || {
            let text = std::fs::read_to_string(&self.log).ok()?;
            (text.lines().count() >= lines).then_some(text)
        });
        count(text.lines().map(|line| if line.starts_with('{') { caddy::logged(line) } else { logged(line) }))
    }
}

/// `<status> <path>`.
fn logged(line: &str) -> (u64, String) {
    let (status, path) = line.split_once(' ').unwrap_or_else(|| panic!("not a line of the log: {line}"));
    (status.parse().unwrap_or_else(|_| panic!("not a status: {line}")), path.to_owned())
}

/// Whether somebody listens on this address of IPv4, by the kernel's list. A connection to find out would be traced, and HAProxy
/// answers one that asks nothing with 400, which is nobody's request.
pub(super) fn listens(address: &str) -> bool {
    const LISTEN: &str = "0A";
    let (_, port) = address.split_once(':').expect("address and port");
    let port = format!(":{:04X}", port.parse::<u16>().expect("a port"));
    let text = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's list of sockets");
    text.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(1).is_some_and(|local| local.ends_with(&port)) && fields.get(3) == Some(&LISTEN)
    })
}

fn haproxy_configuration(address: &str, server: &str) -> String {
    format!(
        "global
  log stdout format raw local0 info
defaults
  mode http
  log global
  log-format \"%ST %HU\"
  retries 0
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend front
  bind {address}
  use_backend down if {{ path_beg /down/ }}
  default_backend up
backend up
  server one {server}
backend down
  server none {DEAD}
"
    )
}

fn envoy_configuration(folder: &TempDir, [address, admin]: [&str; 2], server: &str, tls: bool) -> String {
    let socket = |address: &str| {
        let (ip, port) = address.split_once(':').expect("address and port");
        format!(r#"{{"socket_address": {{"address": "{ip}", "port_value": {port}}}}}"#)
    };
    let cluster = |name: &str, address: &str| {
        let endpoint = format!(r#"{{"endpoint": {{"address": {}}}}}"#, socket(address));
        format!(
            r#"{{"name": "{name}", "connect_timeout": "5s", "type": "STATIC", "load_assignment":
            {{"cluster_name": "{name}", "endpoints": [{{"lb_endpoints": [{endpoint}]}}]}}}}"#
        )
    };
    let secured = if tls {
        let (key, certificate) = certificate(folder);
        format!(
            r#", "transport_socket": {{"name": "envoy.transport_sockets.tls", "typed_config":
            {{"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {{"tls_certificates": [{{"certificate_chain": {{"filename": "{}"}},
            "private_key": {{"filename": "{}"}}}}]}}}}}}"#,
            certificate.display(),
            key.display()
        )
    } else {
        String::new()
    };
    let routes = r#"[{"match": {"prefix": "/down/"}, "route": {"cluster": "down"}},
        {"match": {"prefix": "/"}, "route": {"cluster": "up"}}]"#;
    format!(
        r#"{{"admin": {{"address": {}}}, "static_resources": {{"listeners": [{{"address": {}, "filter_chains": [{{"filters": [
        {{"name": "envoy.filters.network.http_connection_manager", "typed_config":
        {{"@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "front", "http_filters": [{{"name": "envoy.filters.http.router", "typed_config":
        {{"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}}}],
        "access_log": [{{"name": "envoy.access_loggers.file", "typed_config":
        {{"@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog", "path": "{}",
        "log_format": {{"text_format_source": {{"inline_string": "%RESPONSE_CODE% %REQ(:PATH)%\n"}}}}}}}}],
        "route_config": {{"virtual_hosts": [{{"name": "all", "domains": ["*"], "routes": {routes}}}]}}}}}}]{secured}}}]}}],
        "clusters": [{}, {}]}}}}"#,
        socket(admin),
        socket(address),
        folder.join("log").display(),
        cluster("up", server),
        cluster("down", DEAD),
    )
}
