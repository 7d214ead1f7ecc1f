//! The flags of `spantap run`. Scripts rely on the names that are not hidden.
//!
//! In: the command line. Out: [`RunArgs`], of which every `None` or empty list means "not given". Called by the command
//! line; read by [`super::layers`]. Never reads the environment or files, never has defaults of its own.

use std::{net::SocketAddr, path::PathBuf};

use super::{Address, Rung, SyscallHooks};

/// Flags of `spantap run`. A list given here replaces the same list of the environment or the file.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct RunArgs {
    /// Configuration file (YAML)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Folder of the span log
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Unix socket for the reading commands
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// Capture nothing, only relay what is received; needs no privilege
    #[arg(long)]
    pub no_capture: bool,

    /// Trace everything in full
    #[arg(long, help_heading = "Selection")]
    pub select_all: bool,
    /// Trace in full what runs in this cgroup or below it
    #[arg(long, value_name = "PATH", help_heading = "Selection")]
    pub select_cgroup: Vec<PathBuf>,
    /// Trace this process and its children in full
    #[arg(long, value_name = "PID", help_heading = "Selection")]
    pub select_pid: Vec<u32>,
    /// Trace executables whose path matches in full
    #[arg(long, value_name = "GLOB", help_heading = "Selection")]
    pub select_exe: Vec<String>,
    /// Trace connections with this local or remote port in full
    #[arg(long, value_name = "N", help_heading = "Selection")]
    pub select_port: Vec<u16>,
    /// Trace this network namespace in full, for example /run/netns/NAME or /proc/PID/ns/net
    #[arg(long, value_name = "PATH", help_heading = "Selection")]
    pub select_netns: Vec<PathBuf>,
    /// Trace containers whose name matches, or whose identifier begins so, in full
    #[arg(long, value_name = "GLOB", help_heading = "Selection")]
    pub select_container: Vec<String>,
    /// Trace pods of Kubernetes in full, for example shop/checkout-*
    #[arg(long, value_name = "NAMESPACE/POD", help_heading = "Selection")]
    pub select_pod: Vec<String>,
    /// Record nothing of what runs in this cgroup or below it
    #[arg(long, value_name = "PATH", help_heading = "Selection")]
    pub exclude_cgroup: Vec<PathBuf>,
    /// Record nothing of this process and its children
    #[arg(long, value_name = "PID", help_heading = "Selection")]
    pub exclude_pid: Vec<u32>,
    /// Record nothing of executables whose path matches
    #[arg(long, value_name = "GLOB", help_heading = "Selection")]
    pub exclude_exe: Vec<String>,
    /// Record nothing of connections with this local or remote port
    #[arg(long, value_name = "N", help_heading = "Selection")]
    pub exclude_port: Vec<u16>,
    /// Record nothing of this network namespace
    #[arg(long, value_name = "PATH", help_heading = "Selection")]
    pub exclude_netns: Vec<PathBuf>,
    /// Record nothing of containers whose name matches, or whose identifier begins so
    #[arg(long, value_name = "GLOB", help_heading = "Selection")]
    pub exclude_container: Vec<String>,
    /// Record nothing of these pods, for example kube-system/*
    #[arg(long, value_name = "NAMESPACE/POD", help_heading = "Selection")]
    pub exclude_pod: Vec<String>,

    /// Receive OTLP/gRPC on this address: IP:PORT or unix:PATH
    #[arg(long, value_name = "ADDR", help_heading = "Input")]
    pub receive_otlp_grpc: Vec<Address>,
    /// Receive OTLP/HTTP (/v1/traces) and Zipkin (/api/v2/spans) on this address: IP:PORT or unix:PATH
    #[arg(long, value_name = "ADDR", help_heading = "Input")]
    pub receive_otlp_http: Vec<Address>,
    /// Receive OTLP/gRPC, OTLP/HTTP and Zipkin on this unix socket
    #[arg(long, value_name = "PATH", help_heading = "Input")]
    pub receive_otlp_unix: Vec<PathBuf>,

    /// Send spans to this destination: otlp+grpc://HOST:PORT, otlp+http://HOST:PORT/v1/traces, zipkin+http://HOST:PORT,
    /// jaeger+grpc://HOST:PORT, jaeger+http://HOST:PORT, datadog+http://HOST:PORT (grpcs and https for TLS), kafka://HOST:PORT/TOPIC, nats://HOST:PORT/SUBJECT,
    /// s3://BUCKET/PREFIX, or file:/PATH
    #[arg(long, value_name = "URL", help_heading = "Output")]
    pub export: Vec<String>,
    /// Serve /metrics, /healthz and /readyz on this address
    #[arg(long, value_name = "ADDR", help_heading = "Output")]
    pub metrics: Option<SocketAddr>,
    /// Keep url.path as it is, ids and tokens included
    #[arg(long, help_heading = "Output")]
    pub keep_paths: bool,

    /// Run the kernel programs where sockets tell of calls, at every system call, or at those that move bytes
    #[arg(long, value_name = "WHICH")]
    pub syscall_hooks: Option<SyscallHooks>,

    /// Attach only by this rung of the ladder; fail where the kernel does not have it
    #[arg(long, value_name = "RUNG", hide = true)]
    pub attach: Option<Rung>,
    /// Leave this hook detached, to show what its absence does
    #[arg(long, value_name = "NAME", hide = true)]
    pub without_hook: Vec<String>,
    /// Payload bytes captured per call
    #[arg(long, value_name = "N", hide = true)]
    pub payload_bytes: Option<u32>,
}
