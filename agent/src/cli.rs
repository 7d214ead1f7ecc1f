//! The command line: commands, and the flags that the reading commands share.
//!
//! In: the arguments. Out: [`Cli`]. Used by `main` and `commands`. The flags of `run` are in [`RunArgs`].

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use agent_core::{cause::Cause, span::Protocol};
use clap::{Args, Parser, Subcommand, ValueEnum, builder::PossibleValuesParser};

use crate::{
    config::{Match, RunArgs},
    query::api::AttributeMatch,
};

/// Where the agent answers unless it was told otherwise.
pub const SOCKET_DEFAULT: &str = "/run/spantap/spantap.sock";

/// Where did the time go? Traces requests from the kernel, without touching the applications.
#[derive(Clone, Debug, Parser)]
#[command(name = "spantap", version, about, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run the agent on this host
    Run(Box<RunArgs>),
    /// Can the agent run here, and what would be degraded?
    Check(CheckArgs),
    /// How the agent is
    Status(ReadArgs),
    /// List spans, or follow them
    Spans(SpansArgs),
    /// The slowest spans, and where their time went
    Slow(SlowArgs),
    /// Groups of spans: how many, how slow, how many failed, and where their time went; of the last 10 minutes if --since does not
    /// say otherwise
    Top(TopArgs),
    /// One trace as a waterfall
    Trace(IdArgs),
    /// Where the time of one span went, in words
    Why(IdArgs),
    /// Connections, alive and of late: bytes, exchanges, retransmits, round trips
    Conns(ConnsArgs),
    /// What was lost, by reason
    Losses(ReadArgs),
    /// Spans that destinations refused for good: look, send again, take out, drop
    #[command(subcommand)]
    Dlq(DlqCommand),
    /// What the agent costs: each kernel program, memory, itself
    #[command(name = "self")]
    SelfCost(SelfArgs),
    /// Send spans that sampling left out after all, or write them to a file; or test a destination
    Export(Box<ExportArgs>),
    /// Check or show the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Turn a recorded event stream into spans, without a kernel or an agent
    ReplayEvents(ReplayArgs),
    /// Print what a shell completes: source <(spantap completions bash)
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
}

/// Shared by the commands that ask a running agent.
#[derive(Clone, Debug, Args)]
pub struct ReadArgs {
    /// The agent's socket
    #[arg(long, value_name = "PATH", env = "SPANTAP_SOCKET", default_value = SOCKET_DEFAULT)]
    pub socket: PathBuf,
    /// Print JSON, one object per line
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `spantap self`.
#[derive(Clone, Debug, Args)]
pub struct SelfArgs {
    #[command(flatten)]
    pub(crate) read: ReadArgs,
    /// For how long to measure, at most a minute
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_window)]
    pub window: Duration,
}

/// Arguments of `spantap check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Print JSON, one object per line
    #[arg(long)]
    pub json: bool,
}

/// Which spans.
#[derive(Clone, Debug, Default, Args)]
pub struct FilterArgs {
    /// Only spans that ended since then: a duration (10m, 1h) or a time (2025-01-31T12:00:00Z)
    #[arg(long, value_name = "WHEN", value_parser = parse_since)]
    pub since: Option<Since>,
    /// Only this service
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// Only this kind
    #[arg(long)]
    pub kind: Option<Kind>,
    /// Only spans at least this long (5ms, 1s)
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub min_duration: Option<Duration>,
    /// Only this outcome
    #[arg(long)]
    pub status: Option<Outcome>,
    /// Only this protocol of captured spans (http, grpc, postgresql, tcp)
    #[arg(long, value_name = "NAME", value_parser = protocols(), hide_possible_values = true)]
    pub protocol: Option<String>,
    /// Only this peer: an address, ADDRESS:PORT, or the path of a unix socket
    #[arg(long, value_name = "ADDRESS", value_parser = parse_peer)]
    pub peer: Option<String>,
    /// Only this cause, by its id (docs/causes.md), as `spans` shows it: what only `why` can tell, from other spans, is not looked for
    #[arg(long, value_name = "ID", value_parser = causes(), hide_possible_values = true)]
    pub cause: Option<String>,
    /// Only with this attribute of the span or its resource, for example k8s.pod.name=checkout-*; repeated: all of them
    #[arg(long = "attribute", value_name = "KEY=GLOB", value_parser = parse_attribute)]
    pub attributes: Vec<AttributeMatch>,
}

/// Arguments of `spantap spans`.
#[derive(Clone, Debug, Args)]
pub struct SpansArgs {
    #[command(flatten)]
    pub(crate) read: ReadArgs,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    /// Most spans to print, the newest ones; 0: all of them
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: u64,
    /// Keep printing spans as they end; those of the past only if --since asks for them
    #[arg(long, short)]
    pub follow: bool,
}

/// Arguments of `spantap slow`.
#[derive(Clone, Debug, Args)]
pub struct SlowArgs {
    #[command(flatten)]
    pub(crate) read: ReadArgs,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    /// Also spans of processes that are not selected; without it only if there are no others
    #[arg(long)]
    pub unselected: bool,
    /// How many; 0: all of them, which this command holds in memory
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub limit: u64,
}

/// Arguments of `spantap top`.
#[derive(Clone, Debug, Args)]
pub struct TopArgs {
    #[command(flatten)]
    pub(crate) read: ReadArgs,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    /// What the spans of a group have in common: service, kind, name, peer (where clients connect to, their address without the port),
    /// cause, protocol, status, or the key of any attribute (service.peer.name, http.route, k8s.pod.name, process.pid)
    #[arg(long, value_name = "KEY,...", value_delimiter = ',', default_value = "service,kind,name", value_parser = parse_key)]
    pub by: Vec<String>,
    /// What comes first
    #[arg(long, value_name = "BY", default_value = "total")]
    pub sort: TopOrder,
    /// Also spans of processes that are not selected; without it only if there are no others
    #[arg(long)]
    pub unselected: bool,
    /// Most groups to print; 0: all of them, at most 1000
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(..=1000))]
    pub limit: u64,
}

/// What groups are sorted by, the most first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TopOrder {
    /// The sum of the spans' durations
    Total,
    /// Their number
    Spans,
    /// Those with an error
    Errors,
    /// The duration that half of them do not exceed
    P50,
    /// That nine tenths do not exceed
    P90,
    /// That 99 of a hundred do not exceed
    P99,
    /// The longest
    Max,
}

/// Arguments of `spantap conns`.
#[derive(Clone, Debug, Args)]
pub struct ConnsArgs {
    #[command(flatten)]
    pub(crate) read: ReadArgs,
    /// What comes first
    #[arg(long, value_name = "BY", default_value = "opened")]
    pub sort: ConnsOrder,
    /// Only this peer: an address, ADDRESS:PORT, or the path of a unix socket
    #[arg(long, value_name = "ADDRESS", value_parser = parse_peer)]
    pub peer: Option<String>,
    /// Most connections to print; 0: all of them. 50 by default, with --json all
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
}

/// What connections are sorted by, the most first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ConnsOrder {
    /// The newest
    Opened,
    /// Segments that were sent again
    Retransmits,
    /// Bytes both ways
    Bytes,
    /// Smoothed round-trip time
    Rtt,
}

/// Arguments of the commands about one span or trace.
#[derive(Clone, Debug, Args)]
pub struct IdArgs {
    #[command(flatten)]
    pub(crate) read: ReadArgs,
    /// Trace id or span id, or at least four leading digits of one
    #[arg(value_name = "ID")]
    pub id: String,
}

/// Arguments of `spantap export`.
#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct ExportArgs {
    /// Or a subcommand.
    #[command(subcommand)]
    pub command: Option<ExportCommand>,
    /// Which agent.
    #[command(flatten)]
    pub read: ReadArgs,
    /// Spans that ended since then: a duration (10m, 1h) or a time (2025-01-31T12:00:00Z)
    #[arg(long, value_name = "WHEN", value_parser = parse_since, required = true)]
    pub since: Option<Since>,
    /// Spans that ended before then; now by default
    #[arg(long, value_name = "WHEN", value_parser = parse_since)]
    pub until: Option<Since>,
    /// Only these, as in a destination's filter ('service: shop, status: error'); repeated: any of them
    #[arg(long = "where", value_name = "EXPR")]
    pub matches: Vec<Match>,
    /// Only of this tenant
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<String>,
    /// Also those that were sent before; they come twice
    #[arg(long)]
    pub all: bool,
    /// Only count them
    #[arg(long)]
    pub dry_run: bool,
    /// A destination's name; or file:PATH, which must not exist, or - for the output: OTLP JSON, one request a line
    #[arg(long, value_name = "DEST", required = true)]
    pub to: Option<String>,
}

/// `spantap export ...`
#[derive(Clone, Debug, Subcommand)]
pub enum ExportCommand {
    /// Send one span to a destination and tell what becomes of it (a file is only looked at); the agent need not run
    Test {
        /// Configuration file (YAML); without it the running agent's
        #[arg(long, value_name = "FILE", env = "SPANTAP_CONFIG")]
        config: Option<PathBuf>,
        /// Which agent.
        #[command(flatten)]
        read: ReadArgs,
        /// The destination: its name in the configuration, or a URL
        #[arg(value_name = "NAME|URL")]
        destination: String,
    },
}

/// `spantap dlq ...`
#[derive(Clone, Debug, Subcommand)]
pub enum DlqCommand {
    /// List dead letters, oldest first
    Ls {
        /// Which agent.
        #[command(flatten)]
        read: ReadArgs,
        /// Which letters.
        #[command(flatten)]
        which: LetterArgs,
        /// Most letters to print; 0: all of them
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: u64,
    },
    /// The spans of one
    Show {
        /// Which agent.
        #[command(flatten)]
        read: ReadArgs,
        /// Its number
        #[arg(value_name = "ID")]
        id: u64,
    },
    /// Send them again; what is refused again stays
    Replay {
        /// Which agent.
        #[command(flatten)]
        read: ReadArgs,
        /// Which letters.
        #[command(flatten)]
        which: LetterArgs,
    },
    /// Write their spans to a file, as one OTLP request in protobuf
    Export {
        /// Which agent.
        #[command(flatten)]
        read: ReadArgs,
        /// Which letters.
        #[command(flatten)]
        which: LetterArgs,
        /// The file, which must not exist
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Forget them
    Drop {
        /// Which agent.
        #[command(flatten)]
        read: ReadArgs,
        /// Which letters.
        #[command(flatten)]
        which: LetterArgs,
    },
}

/// Which dead letters: all that fit everything that is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct LetterArgs {
    /// Only these, by number
    #[arg(value_name = "ID")]
    pub ids: Vec<u64>,
    /// Only those that this destination refused
    #[arg(long, value_name = "NAME")]
    pub destination: Option<String>,
    /// Only those whose reason contains this text
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Only those refused since then: a duration (10m) or a time (2025-01-31T12:00:00Z)
    #[arg(long, value_name = "WHEN", value_parser = parse_since)]
    pub since: Option<Since>,
    /// Only those refused before then
    #[arg(long, value_name = "WHEN", value_parser = parse_since)]
    pub until: Option<Since>,
    /// All of them
    #[arg(long)]
    pub all: bool,
}

/// `spantap config ...`
#[derive(Clone, Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check a configuration file
    Check {
        /// The file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Print the effective configuration, with the source of each value
    Show(Box<RunArgs>),
    /// Print the JSON Schema of the file
    Schema,
}

/// Arguments of `spantap replay-events`.
#[derive(Clone, Debug, Args)]
pub struct ReplayArgs {
    /// The recorded event stream
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Print JSON, one object per line
    #[arg(long)]
    pub json: bool,
}

/// Span kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Handled a request
    Server,
    /// Made a request
    Client,
    /// Sent a message
    Producer,
    /// Handled a message
    Consumer,
    /// Neither
    Internal,
}

/// Outcomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Outcome {
    /// Ended without an error
    Ok,
    /// Ended with an error
    Error,
    /// The end was not seen
    Unknown,
}

/// A point in time, as it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// So long ago.
    Ago(Duration),
    /// Then.
    At(std::time::SystemTime),
}

/// Ids of causes. One that the catalogue does not have would silently match nothing.
fn causes() -> PossibleValuesParser {
    Cause::ALL.iter().map(|cause| cause.id()).into()
}

/// Names of protocols, likewise.
fn protocols() -> PossibleValuesParser {
    Protocol::ALL.map(Protocol::name).into()
}

fn parse_key(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("a key is missing: write KEY or KEY,KEY, for example service,peer".to_owned()),
        // As `spans --json` calls it.
        "pid" => Ok("process.pid".to_owned()),
        key => Ok(key.to_owned()),
    }
}

fn parse_attribute(text: &str) -> Result<AttributeMatch, String> {
    match text.split_once('=') {
        Some((key, glob)) if !key.is_empty() => Ok(AttributeMatch { key: key.to_owned(), glob: glob.to_owned() }),
        _ => Err("write KEY=VALUE, for example http.response.status_code=5?? or k8s.pod.name=checkout-*".to_owned()),
    }
}

/// As peers are shown. What is none would silently match nothing.
fn parse_peer(text: &str) -> Result<String, String> {
    if let Ok(address) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return Ok(address.to_string());
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address.to_string());
    }
    // A unix socket without a path has the number of its inode.
    let inode = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let is_inode = inode.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|it| it.is_ascii_digit()));
    if text.starts_with("unix:") || text.starts_with(['/', '@']) || is_inode {
        return Ok(text.to_owned());
    }
    Err("give an address (10.0.0.1, 2001:db8::1), ADDRESS:PORT (10.0.0.1:80, [2001:db8::1]:80) or the path of a unix socket \
         (/run/app.sock); names are not looked up"
        .to_owned())
}

fn parse_window(text: &str) -> Result<Duration, String> {
    let window = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let most = Duration::from_millis(crate::query::api::SELF_WINDOW_MS_MAX.into());
    if window < Duration::from_millis(100) || window > most {
        return Err("give a duration between 100ms and 1m".to_owned());
    }
    Ok(window)
}

fn parse_since(text: &str) -> Result<Since, String> {
    if let Ok(duration) = humantime::parse_duration(text) {
        return Ok(Since::Ago(duration));
    }
    let time = humantime::parse_rfc3339_weak(text);
    time.map(Since::At)
        .map_err(|_| "give a duration like 10m or 1h, or a time like 2025-01-31T12:00:00Z (UTC)".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn exporting_says_what_and_where_to_and_tests_need_neither() {
        let parse = |line: &str| Cli::try_parse_from(line.split('|'));
        assert!(parse("spantap|export|--since|1m|--where|service: shop|--where|status: error|--to|-").is_ok());
        assert!(parse("spantap|export|test|backend").is_ok());
        assert!(parse("spantap|export|--to|backend").is_err());
        assert!(parse("spantap|export|--since|1m").is_err());
        let error = parse("spantap|export|--since|1m|--to|-|--where|servce: shop").expect_err("no such key");
        assert!(error.to_string().contains("servce"), "{error}");
    }

    #[test]
    fn a_peer_is_an_address_as_it_is_shown() {
        let check = |text: &str, expected: &str| assert_eq!(parse_peer(text).as_deref(), Ok(expected), "{text}");
        check("10.77.9.1", "10.77.9.1");
        check("10.77.9.1:80", "10.77.9.1:80");
        check("[2001:DB8::0:1]", "2001:db8::1");
        check("2001:db8:0::1", "2001:db8::1");
        check("[2001:db8:0::1]:80", "[2001:db8::1]:80");
        for unix in ["/run/app.sock", "unix:/run/app.sock", "[4711]", "unix:[4711]"] {
            check(unix, unix);
        }
        for wrong in ["18080", "10.77.9", "10.77.9.1:", ":80", "db.internal", "", "[]", "10.0.0.0/8"] {
            assert!(parse_peer(wrong).is_err_and(|message| message.contains("10.0.0.1:80")), "{wrong}");
        }
        for command in ["spans", "slow", "top", "conns"] {
            let parse = |peer| Cli::try_parse_from(["spantap", command, "--peer", peer]);
            assert!(parse("18080").is_err() && parse("10.0.0.1").is_ok(), "{command}");
        }
    }

    #[test]
    fn keys_to_group_by_are_named() {
        let parse = |by: &str| match Cli::try_parse_from(["spantap", "top", "--by", by]).map(|cli| cli.command) {
            Ok(Command::Top(args)) => Ok(args.by),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        };
        assert_eq!(parse("service, pid").as_deref(), Ok(&["service".to_owned(), "process.pid".to_owned()][..]));
        for wrong in ["", "service,", ","] {
            assert!(parse(wrong).is_err_and(|error| error.contains("a key is missing")), "{wrong:?}");
        }
        assert!(Cli::try_parse_from(["spantap", "top", "--limit", "1001"]).is_err());
    }

    #[test]
    fn since_takes_a_duration_or_a_time() {
        assert_eq!(parse_since("10m"), Ok(Since::Ago(Duration::from_secs(600))));
        let noon = std::time::UNIX_EPOCH + Duration::from_secs(12 * 3600);
        assert_eq!(parse_since("1970-01-01T12:00:00Z"), Ok(Since::At(noon)));
        assert!(parse_since("yesterday").is_err_and(|message| message.contains("10m")));
    }

    #[test]
    fn what_is_one_of_a_few_is_checked_and_the_nearest_is_told() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' ')).map_err(|error| error.to_string());
        for (right, wrong, near) in [
            ("--cause remote_slow", "--cause remote_slo", "remote_slow"),
            ("--protocol http", "--protocol htp", "http"),
            ("--protocol postgresql", "--protocol postgres", "postgresql"),
            ("--kind server", "--kind sever", "server"),
            ("--status error", "--status eror", "error"),
        ] {
            for command in ["spans", "slow", "top"] {
                assert!(parse(&format!("spantap {command} {right}")).is_ok(), "{right}");
                let error = parse(&format!("spantap {command} {wrong}")).expect_err("not one of them");
                assert!(error.contains("possible values: ") && error.contains(&format!("exists: '{near}'")), "{error}");
            }
        }
    }

    #[test]
    fn every_reading_command_takes_a_socket_and_json() {
        for command in [
            "status",
            "losses",
            "self",
            "spans",
            "slow",
            "top",
            "conns",
            "trace 0af7",
            "why 0af7",
            "export --since 10m --to backend",
            "dlq ls",
            "dlq show 1",
            "dlq replay --all",
            "dlq drop 1 2",
        ] {
            let line = format!("spantap {command} --socket /tmp/x --json");
            Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }
}
