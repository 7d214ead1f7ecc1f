//! Facts of a process, from `/proc`.
//!
//! In: a process id. Out: executable, container, and the service that it says it is, or belongs to. Called by the capture loop for each process
//! once, and again after it replaced its program. Of the environment only `OTEL_SERVICE_NAME` and
//! `OTEL_RESOURCE_ATTRIBUTES` are looked at, of the command line only the name that the program was called by, or of the script that an interpreter runs:
//! program text and arguments never become a name. A process that is gone gives facts without content.

use std::{fs, io, path::Path};

use agent_core::span::ProcessFacts;

use super::container;

/// Most bytes of an environment or command line that are read.
const PROC_BYTES_MAX: u64 = 1 << 20;
/// Longest name that is taken from a command line.
const NAME_BYTES_MAX: usize = 64;

/// What is known of process `pid` now, on a node of this name.
pub fn facts(pid: u32, node_name: Option<&str>) -> ProcessFacts {
    let folder = format!("/proc/{pid}");
    let executable = fs::read_link(format!("{folder}/exe"));
    let has_none = executable.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    if has_none && !is_kernel_thread(&read(&format!("{folder}/stat"))) {
        // It has ended, or is about to: what is still there says less than nothing.
        return ProcessFacts { pid, ..ProcessFacts::default() };
    }
    let executable = executable.ok();
    let environment = read(&format!("{folder}/environ"));
    let command_line = read(&format!("{folder}/cmdline"));
    let mut facts = ProcessFacts { pid, ..ProcessFacts::default() };
    facts.command = String::from_utf8(read(&format!("{folder}/comm"))).ok().map(|text| text.trim_end().to_owned());
    facts.command = facts.command.filter(|text| !text.is_empty());
    if let Some(path) = &executable {
        // The kernel appends this to the path of a program that was replaced on disk while running.
        let path = path.to_string_lossy().trim_end_matches(" (deleted)").to_owned();
        facts.executable_name = file_name(&path);
        facts.executable_path = Some(path);
    }
    facts.container = cgroups(&read(&format!("{folder}/cgroup"))).iter().find_map(|path| container(path));
    declare(&mut facts, &environment);
    deploy(&mut facts, node_name);
    if facts.service_name.is_none() {
        let arguments: Vec<String> =
            command_line.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned()).collect();
        facts.service_name = script(facts.executable_name.as_deref(), &arguments)
            .or_else(|| called(facts.executable_name.as_deref()?, &read(&format!("{folder}/comm")), &arguments))
            .or(facts.executable_name.clone());
    }
    facts
}

/// `PF_KTHREAD` among its flags, the seventh word behind its name, which may hold anything (proc_pid_stat(5)).
fn is_kernel_thread(stat: &[u8]) -> bool {
    const PF_KTHREAD: u32 = 0x0020_0000;
    let stat = String::from_utf8_lossy(stat);
    let behind = stat.rsplit_once(')').map_or("", |(_, behind)| behind);
    let flags = behind.split_whitespace().nth(6).and_then(|word| word.parse::<u32>().ok());
    flags.is_some_and(|flags| flags & PF_KTHREAD != 0)
}

/// The paths of a process's cgroups (cgroups(7)): that of version 2 first, then those of hierarchies of version 1.
fn cgroups(text: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(text);
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_by_key(|line| !line.starts_with("0::"));
    lines.into_iter().filter_map(|line| Some(line.splitn(3, ':').nth(2)?.to_owned())).collect()
}

/// What is not declared is as the container's workload.
fn deploy(facts: &mut ProcessFacts, node_name: Option<&str>) {
    let Some(container) = &facts.container else { return };
    let own = |text: &str| Some(text.to_owned());
    if facts.service_name.is_none() {
        facts.service_name = container.service_name(node_name).and_then(own);
        facts.service_inferred = facts.service_name.is_some() && container.pod_name.is_some();
    }
    facts.service_namespace = facts.service_namespace.take().or_else(|| container.service_namespace().and_then(own));
    let version = container.image_tag.as_deref().filter(|_| container.is_in_pod());
    facts.service_version = facts.service_version.take().or_else(|| version.and_then(own));
}

/// The name that a program was called by, which for one that is several (a link to `redis-check-rdb`, `busybox`) says more than the file's. What
/// the kernel and the command line say must agree, since a process may write to both.
fn called(executable: &str, comm: &[u8], arguments: &[String]) -> Option<String> {
    const COMM_BYTES_MAX: usize = 15;
    let comm = std::str::from_utf8(comm).ok()?.trim_end();
    let name = file_name(arguments.first()?.split([' ', ':']).next()?)?;
    let agree = if comm.len() == COMM_BYTES_MAX { name.starts_with(comm) } else { name == comm };
    // `python3` says less than `python3.11`.
    (agree && !executable.starts_with(&name) && name.len() <= NAME_BYTES_MAX).then_some(name)
}

fn read(path: &str) -> Vec<u8> {
    use std::io::Read;
    let mut bytes = Vec::new();
    if let Ok(file) = fs::File::open(path) {
        // A process may end while it is read; what came so far is as good as nothing.
        let _ = file.take(PROC_BYTES_MAX).read_to_end(&mut bytes);
    }
    bytes
}

fn file_name(path: &str) -> Option<String> {
    Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned())
}

/// Takes the declared resource attributes. `OTEL_SERVICE_NAME` wins over `service.name` in the list (OpenTelemetry
/// SDK configuration).
fn declare(facts: &mut ProcessFacts, environment: &[u8]) {
    let value = |name: &[u8]| {
        let mut variables = environment.split(|byte| *byte == 0);
        variables.find_map(|variable| variable.strip_prefix(name)?.strip_prefix(b"=")).map(String::from_utf8_lossy)
    };
    let attributes = value(b"OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default().into_owned();
    for (key, value) in attributes.split(',').filter_map(|pair| pair.split_once('=')) {
        let value = percent_decoded(value.trim());
        let field = match key.trim() {
            "service.name" => &mut facts.service_name,
            "service.namespace" => &mut facts.service_namespace,
            "service.version" => &mut facts.service_version,
            "deployment.environment.name" | "deployment.environment" => &mut facts.deployment_environment,
            _ => continue,
        };
        *field = Some(value).filter(|value| !value.is_empty());
    }
    if let Some(name) = value(b"OTEL_SERVICE_NAME").filter(|name| !name.is_empty()) {
        facts.service_name = Some(name.into_owned());
    }
    facts.service_declared = facts.service_name.is_some();
}

/// W3C Baggage octets as `OTEL_RESOURCE_ATTRIBUTES` uses them.
fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.filter(|_| bytes[at] == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// Short options that take program text in some interpreter. Others with these letters are rare, and cost only a name.
const TEXT_OPTIONS: &str = "cep";
/// Long options that take program text, or that what follows belongs to the program.
const TEXT_OPTIONS_LONG: &[&str] =
    &["--eval", "--print", "--command", "--run", "--process-begin", "--process-code", "--process-end"];

/// How the command line of an interpreter is read.
struct Interpreter {
    /// The option before the name of what it runs.
    names_module: &'static str,
    /// Options whose value is the next argument.
    takes_value: &'static [&'static str],
    /// Letters of short options after which there is no name: program text, or a program from standard input.
    no_name: &'static str,
}

fn interpreter(executable: &str) -> Option<Interpreter> {
    let name = executable.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    let (names_module, takes_value, more): (_, &[_], _) = match name {
        "python" | "pypy" => ("-m", &["-W", "-X"], ""),
        // Java takes no program text, and its options are words.
        "java" => {
            let takes_value = &["-cp", "-classpath", "--class-path"];
            return Some(Interpreter { names_module: "-jar", takes_value, no_name: "" });
        }
        "node" | "nodejs" => ("", &["-r", "--require", "--import", "--loader", "-C", "--conditions"], ""),
        "ruby" => ("", &["-I", "-r", "-C"], ""),
        "perl" => ("", &["-I"], "E"),
        "php" => ("", &["-d"], "rRBE"),
        "bash" | "sh" | "dash" => ("", &["-o", "-O", "--rcfile", "--init-file"], "s"),
        _ => return None,
    };
    Some(Interpreter { names_module, takes_value, no_name: more })
}

impl Interpreter {
    /// Whether what follows this argument may be program text.
    fn hides(&self, argument: &str) -> bool {
        if self.names_module == "-jar" {
            return false;
        }
        if argument.starts_with("--") {
            let name = argument.split('=').next().unwrap_or(argument);
            return TEXT_OPTIONS_LONG.contains(&name);
        }
        // A lone dash is a program from standard input; what follows are its arguments.
        argument == "-" || argument[1..].contains(|c| TEXT_OPTIONS.contains(c) || self.no_name.contains(c))
    }
}

/// What an interpreter runs: the script or module, without folder and ending.
fn script(executable: Option<&str>, arguments: &[String]) -> Option<String> {
    let interpreter = interpreter(executable?)?;
    let mut rest = arguments.iter().skip(1);
    while let Some(argument) = rest.next() {
        if argument == "--" || (!argument.is_empty() && *argument == interpreter.names_module) {
            return rest.next().and_then(|name| stem(name));
        }
        if interpreter.takes_value.contains(&argument.as_str()) {
            rest.next();
        } else if argument.starts_with('-') {
            if interpreter.hides(argument) {
                return None;
            }
        } else if !argument.is_empty() {
            return stem(argument);
        }
    }
    None
}

/// The file's name without its ending, if it is one that a file of programs would have.
fn stem(path: &str) -> Option<String> {
    let name = file_name(path)?;
    let stem = ["py", "js", "mjs", "rb", "pl", "php", "sh", "jar"]
        .iter()
        .find_map(|ending| name.strip_suffix(&format!(".{ending}")).map(str::to_owned))
        .unwrap_or(name);
    let plain = stem.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    Some(stem).filter(|stem| plain && (1..=NAME_BYTES_MAX).contains(&stem.len()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use agent_core::container::ContainerFacts;

    use super::*;

    #[test]
    fn declared_attributes_are_taken_and_the_name_variable_wins() {
        let mut facts = ProcessFacts::default();
        let environment =
            b"HOME=/x\0OTEL_RESOURCE_ATTRIBUTES=service.name=a,service.version=1%2E2,x=y\0OTEL_SERVICE_NAME=b\0";
        declare(&mut facts, environment);
        assert_eq!(facts.service_name.as_deref(), Some("b"));
        assert_eq!(facts.service_version.as_deref(), Some("1.2"));
        assert!(facts.service_declared);
    }

    #[test]
    fn a_variable_that_only_ends_alike_is_not_taken() {
        let mut facts = ProcessFacts::default();
        declare(&mut facts, b"MY_OTEL_SERVICE_NAME=a\0OTEL_SERVICE_NAME_X=b\0");
        assert_eq!(facts, ProcessFacts::default());
    }

    #[test]
    fn interpreters_are_named_by_what_they_run() {
        let check = |executable, line: &str, expected: Option<&str>| {
            let arguments: Vec<String> = line.split(' ').map(str::to_owned).collect();
            assert_eq!(script(Some(executable), &arguments).as_deref(), expected, "{line}");
        };
        check("python3.11", "python3 -u /srv/orders.py --port 1", Some("orders"));
        check("python3", "python3 -X dev -m http.server 80", Some("http.server"));
        check("python3", "python3 -c print", None);
        check("java", "java -Xmx1g -cp a:b com.example.Main", Some("com.example.Main"));
        check("java", "java -jar /app/shop.jar", Some("shop"));
        check("node", "node -r ./trace.js server.mjs", Some("server"));
        check("ruby", "ruby -r bundler/setup /srv/app.rb", Some("app"));
        check("bash", "bash -o pipefail -x /srv/start.sh", Some("start"));
        check("bash", "bash -- /srv/start.sh", Some("start"));
        check("nginx", "nginx: worker process", None);
    }

    #[test]
    fn program_text_and_its_arguments_never_become_a_name() {
        let check = |executable, options: &[&str]| {
            for text in ["secret", "/srv/secret.sh"] {
                let arguments: Vec<String> =
                    [executable].iter().chain(options).chain([&text]).map(|text| (*text).to_owned()).collect();
                assert_eq!(script(Some(executable), &arguments), None, "{arguments:?}");
            }
        };
        for options in [["-c"], ["-lc"], ["-ec"], ["-euxc"], ["-s"], ["-"]] {
            check("bash", &options);
            check("sh", &options);
        }
        check("bash", &["-x", "-c"]);
        check("bash", &["-o", "pipefail", "-lc"]);
        check("python3.11", &["-uc"]);
        check("python3", &["-X", "dev", "-c"]);
        check("python3", &["-"]);
        for options in [["-e"], ["-pe"], ["-ne"], ["-E"], ["-lanE"]] {
            check("perl", &options);
        }
        for options in [["-r"], ["-R"], ["--run"]] {
            check("php", &options);
        }
        for options in [["-e"], ["-p"], ["-pe"], ["--eval"], ["--print"], ["--eval=1"]] {
            check("node", &options);
        }
        check("ruby", &["-e"]);
    }

    #[test]
    fn a_program_that_is_several_has_the_name_that_it_was_called_by() {
        let check = |comm: &str, first: &str, expected: Option<&str>| {
            let name = called("several", format!("{comm}\n").as_bytes(), &[first.to_owned()]);
            assert_eq!(name.as_deref(), expected, "{comm} {first}");
        };
        check("redis-server", "/usr/bin/redis-server 127.0.0.1:6379", Some("redis-server"));
        check("nginx", "nginx: worker process", Some("nginx"));
        check("a-name-of-more-", "/opt/a-name-of-more-letters", Some("a-name-of-more-letters"));
        check("MainThread", "node", None);
        check("bash", "-bash", None);
        check("x", "", None);
        assert_eq!(called("python3.11", b"python3\n", &["python3".to_owned()]), None);
    }

    #[test]
    fn only_plain_short_names_are_taken() {
        let check = |path: &str, expected: Option<&str>| assert_eq!(stem(path).as_deref(), expected, "{path}");
        check("/srv/a-b_c.1.py", Some("a-b_c.1"));
        check("curl -H 'token: x' https://host/path with spaces", None);
        check("key=value", None);
        check("\u{e9}.py", None);
        check(".py", None);
        check(&"x".repeat(64), Some(&"x".repeat(64)));
        check(&"x".repeat(65), None);
    }

    #[test]
    fn our_own_process_has_an_executable_and_a_missing_one_has_not() {
        assert!(facts(std::process::id(), None).executable_path.is_some());
        assert_eq!(facts(u32::MAX, None).executable_path, None);
    }

    #[test]
    fn only_threads_of_the_kernel_have_no_executable() {
        assert!(is_kernel_thread(b"2 (kthreadd) S 0 0 0 0 -1 2129984 0 0"));
        assert!(is_kernel_thread(b"3 (a) b) S 0 0 0 0 -1 2129984 0 0"));
        assert!(!is_kernel_thread(&read("/proc/self/stat")));
        assert!(!is_kernel_thread(b"7 (a) Z 1 7 7 0 -1 4228364 0 0"));
        assert!(!is_kernel_thread(b""));
    }

    #[test]
    fn the_cgroup_of_version_2_comes_first() {
        let text = b"12:pids:/a/b\n1:name=systemd:/c\n0::/kubepods.slice:cri-containerd:7\n";
        assert_eq!(cgroups(text), ["/kubepods.slice:cri-containerd:7", "/a/b", "/c"]);
        assert_eq!(cgroups(b""), [""; 0]);
    }

    #[test]
    fn what_is_declared_is_stronger_than_the_pod_and_the_pod_than_the_executable() {
        let pod = ContainerFacts {
            namespace: Some("shop".into()),
            pod_name: Some("cart-0".into()),
            image_tag: Some("7".into()),
            ..ContainerFacts::default()
        };
        let with = |name: Option<&str>| {
            let service_name = name.map(str::to_owned);
            let mut facts = ProcessFacts { service_name, container: Some(Arc::new(pod.clone())), ..Default::default() };
            deploy(&mut facts, None);
            facts
        };
        let deployed = |name: Option<&str>| {
            let facts = with(name);
            [facts.service_name, facts.service_namespace, facts.service_version].map(Option::unwrap_or_default)
        };
        assert_eq!(deployed(Some("declared")), ["declared", "shop", "7"]);
        assert_eq!(deployed(None), ["cart", "shop", "7"]);
        assert!(!with(Some("declared")).service_inferred && with(None).service_inferred);
    }
}
