//! Other people's programs: a Python server, curl, wrk.

use std::{
    io::{BufRead, BufReader},
    time::Duration,
};

use serde_json::Value;

use crate::{
    http::Place,
    process::{Launch, Process, tool},
    temp::TempDir,
};

const PYTHON_SERVER: &str = include_str!("python_server.py");

/// A running Python `http.server`.
pub struct PythonServer {
    process: Process,
    _folder: TempDir,
    /// `ip:port` that it listens on.
    pub address: String,
}

impl PythonServer {
    /// Starts it on a free port of loopback; for its routes see `python_server.py`.
    pub fn start(place: Place) -> Self {
        let folder = TempDir::new("python");
        let script = folder.write("server.py", PYTHON_SERVER);
        let launch = Launch::new(tool("python3")).arg(script).arg("0").env("OTEL_SERVICE_NAME", "python-test");
        let mut process = place.apply(launch.stdout_piped().stderr_to(&folder.join("stderr"))).spawn();
        let mut port = String::new();
        BufReader::new(process.stdout()).read_line(&mut port).expect("port of the Python server");
        Self { process, _folder: folder, address: format!("127.0.0.1:{}", port.trim()) }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }
}

/// Runs curl with these arguments and gives what it measured (`--write-out %{json}`), one value per transfer.
pub fn curl(place: Place, args: &[&str]) -> Vec<Value> {
    let launch = Launch::new(tool("curl")).args(["-sS", "--write-out", "%{json}\n", "--max-time", "20"]);
    // Each URL wants its own place for the body; without one the body would go to the standard output.
    let urls = args.iter().filter(|arg| arg.starts_with("http://")).flat_map(|_| ["-o", "/dev/null"]);
    let text = place.apply(launch.args(urls).args(args)).run();
    text.lines().map(|line| serde_json::from_str(line).expect("curl writes JSON")).collect()
}

/// Runs curl whatever becomes of it, and gives its exit code.
pub fn curl_exit(place: Place, args: &[&str]) -> Option<i32> {
    let launch = Launch::new(tool("curl")).args(["-sS", "-o", "/dev/null", "--max-time", "20"]);
    place.apply(launch.args(args)).output().status.code()
}

/// Runs wrk without a limit on its rate, for `length`, on `connections` connections.
pub fn wrk(place: Place, url: &str, connections: u32, length: Duration) -> String {
    launch_wrk(place, url, connections, length).run()
}

/// The same, until the guard goes, and at most for `length`.
pub fn wrk_meanwhile(place: Place, url: &str, connections: u32, length: Duration) -> Process {
    launch_wrk(place, url, connections, length).stdout_piped().spawn()
}

fn launch_wrk(place: Place, url: &str, connections: u32, length: Duration) -> Launch {
    let seconds = format!("{}s", length.as_secs());
    let connections = connections.to_string();
    place.apply(Launch::new(tool("wrk")).args(["-t", "1", "-c", &connections, "-d", &seconds, url]))
}
