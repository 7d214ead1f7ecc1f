//! What a system call that has nothing to do with sockets pays: `getppid`, outside and inside of the selection.

use spantap_tests::{
    cgroup::Cgroup,
    http::{Place, actor},
};

use crate::{
    Bench,
    mode::{Mode, Tracer},
    table::{Spread, Table},
};

/// Measures every mode and prints the table.
pub fn run(bench: &Bench) {
    let samples = bench.interleaved(&Mode::ALL, |mode| measure(bench, mode));
    println!("## An unrelated system call\n");
    let legend = Spread::legend(bench.rounds);
    println!("`getppid`, least of ten loops of 200,000 calls, {} rounds; {legend}.\n", bench.rounds);
    let mut table = Table::new(&["mode", "ns/call", "over off, ns"]);
    let calls = samples.into_iter().map(|samples| Spread::of(samples.into_iter())).collect::<Vec<_>>();
    for (mode, call) in Mode::ALL.iter().zip(&calls) {
        let over = format!("{:+.0}", call.median - calls[0].median);
        let over = if *mode == Mode::Off { String::new() } else { over };
        table.row(vec![mode.label().to_owned(), call.show(0), over]);
    }
    table.print();
}

fn measure(bench: &Bench, mode: Mode) -> f64 {
    let cgroup = Cgroup::new("bench");
    let _tracer = Tracer::start(mode, &cgroup, bench);
    let text = Place::cgroup(&cgroup).apply(actor("getppid")).run();
    text.trim().parse().expect("the loop prints a number")
}
