//! A sender of numbered spans and a sink for them, which say what they know before anything else happens: what was said was true before
//! the machine's power went.
//!
//! `otlp_sender address=A:P [first=0 count=N]` sends requests of 100 spans, each again until it is acknowledged, and says
//! `acknowledged N` (all below N) before it sends the next. `otlp_sink address=A:P` says `took FROM TO` (TO not included) for each run
//! of numbers before it answers.

use std::{
    io::{BufReader, Write},
    net::{TcpListener, TcpStream},
    os::fd::AsRawFd,
    time::Duration,
};

use super::Arguments;
use crate::{clock, numbered, otlp};

/// Spans of a request.
const SPANS: u64 = 100;
const ANSWER_BOUND: Duration = Duration::from_secs(30);

/// Runs the sender.
pub fn run_sender(arguments: &Arguments) {
    let address = arguments.need("address").parse().expect("an address");
    let (first, count) = (arguments.get("first", 0), arguments.get("count", u64::MAX / 2));
    let mut connection = None;
    for from in (first..first + count).step_by(SPANS as usize) {
        let request = otlp::post(&numbered::request(from, SPANS));
        while !matches!(otlp::exchange(&mut connection, address, &request, ANSWER_BOUND), Ok(Some(200))) {
            connection = None;
            clock::pace(Duration::from_millis(20));
        }
        say(&format!("acknowledged {}", from + SPANS));
    }
}

/// Runs the sink.
pub fn run_sink(arguments: &Arguments) {
    let listener = TcpListener::bind(arguments.need("address")).expect("the address is free");
    say("ready");
    while let Ok((stream, _)) = listener.accept() {
        std::thread::spawn(move || {
            // How a connection ends does not matter.
            let _ = serve(stream);
        });
    }
}

fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut body = Vec::new();
    while otlp::read_message(&mut reader, &mut body)?.is_some() {
        let lines: Vec<String> =
            runs(&numbered::numbers(&body)).iter().map(|(from, to)| format!("took {from} {to}")).collect();
        say(&lines.join("\n"));
        stream.write_all(&otlp::answer(200, "content-type: application/x-protobuf\r\n", b""))?;
    }
    Ok(())
}

/// Numbers that follow each other, as half-open ranges.
fn runs(numbers: &[u64]) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for &number in numbers {
        match runs.last_mut() {
            Some((_, to)) if *to == number => *to += 1,
            _ => runs.push((number, number + 1)),
        }
    }
    runs
}

/// Returns when the line has left: of a serial line, when the other end has it.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush()).expect("standard output is open");
    // SAFETY: an open descriptor and nothing else; what is no terminal has nothing to drain, and says so.
    unsafe { libc::tcdrain(out.as_raw_fd()) };
}

#[cfg(test)]
mod tests {
    use super::runs;

    #[test]
    fn numbers_that_follow_each_other_are_one_run() {
        assert_eq!(runs(&[3, 4, 5, 9, 0, 1]), [(3, 6), (9, 10), (0, 2)]);
    }
}
