//! What one exchange with a database costs the parsers, with allocations. Run: `cargo bench -p agent-protocol --bench sql`.

use agent_protocol::{
    fastcgi,
    fuzzing::sessions::{Fed, conversation},
    mysql, postgres,
    session::{Event, Input, Parser},
    sql::{Backslash, Dialect, Rules, Statement},
};
use divan::{AllocProfiler, Bencher, black_box, counter::ItemsCount};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

const RULES: Rules = Rules { dialect: Dialect::Postgres, backslash: Backslash::Plain };

fn read(bencher: Bencher, text: &str) {
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| Statement::read(black_box(text).as_bytes(), true, RULES));
}

#[divan::bench(sample_size = 256)]
fn statement_of_pgbench(bencher: Bencher) {
    read(bencher, "UPDATE pgbench_accounts SET abalance = abalance + -4718 WHERE aid = 77350;");
}

#[divan::bench(sample_size = 64)]
fn statement_with_joins(bencher: Bencher) {
    let text = "SELECT o.id, o.total, c.name, count(*) AS n FROM shop.orders o JOIN customers c ON c.id = o.customer \
        LEFT JOIN items i ON i.order_id = o.id AND i.state IN ('open', 'held', 'sent') WHERE o.created > '2026-01-01' \
        AND (o.total > 100.50 OR c.name LIKE 'A%') GROUP BY o.id, c.name ORDER BY n DESC LIMIT 50 OFFSET 100";
    read(bencher, text);
}

#[divan::bench(sample_size = 16)]
fn statement_with_a_thousand_rows(bencher: Bencher) {
    let rows = vec!["(1, 'name', 4.50)"; 800].join(", ");
    read(bencher, &format!("INSERT INTO items VALUES {rows}"));
}

fn feed(parser: &mut Box<dyn Parser>, calls: &[Fed], events: &mut Vec<Event>) {
    for call in calls {
        match call {
            Fed::Bytes(side, bytes) => parser.feed(*side, Input::Bytes(bytes), events),
            Fed::Gap(side, gap) => parser.feed(*side, Input::Gap(*gap), events),
        }
    }
}

/// The exchanges of a recording after its first `skipped` calls, again and again.
fn exchanges(bencher: Bencher, recording: &str, new: fn() -> Box<dyn Parser>, skipped: usize, count: usize) {
    let calls = conversation(recording);
    let (before, again) = calls.split_at(skipped);
    let mut parser = new();
    let mut events = Vec::with_capacity(256);
    feed(&mut parser, before, &mut events);
    bencher.counter(ItemsCount::new(count)).bench_local(|| {
        events.clear();
        feed(&mut parser, black_box(again), &mut events);
        assert_eq!(events.len(), 2 * count);
    });
}

macro_rules! recording {
    ($path:literal) => {
        include_str!(concat!("../fixtures/", $path, ".session"))
    };
}

#[divan::bench(sample_size = 16)]
fn fourteen_simple_queries(bencher: Bencher) {
    exchanges(bencher, recording!("postgres/pgbench-simple"), postgres::new, 8, 14);
}

#[divan::bench(sample_size = 16)]
fn fourteen_extended_queries(bencher: Bencher) {
    exchanges(bencher, recording!("postgres/pgbench-extended"), postgres::new, 8, 14);
}

#[divan::bench(sample_size = 16)]
fn seven_prepared_executions(bencher: Bencher) {
    exchanges(bencher, recording!("postgres/pgbench-prepared"), postgres::new, 36, 7);
}

#[divan::bench(sample_size = 16)]
fn nine_queries_of_mariadb(bencher: Bencher) {
    exchanges(bencher, recording!("mysql/mariadb-client-forced"), mysql::new, 3, 9);
}

#[divan::bench(sample_size = 16)]
fn two_requests_of_fastcgi(bencher: Bencher) {
    let calls: String = recording!("fastcgi/nginx-php-fpm").lines().take(6).flat_map(|line| [line, "\n"]).collect();
    let calls = conversation(&calls);
    let mut parser = fastcgi::new();
    let mut events = Vec::with_capacity(16);
    bencher.counter(ItemsCount::new(2_usize)).bench_local(|| {
        events.clear();
        feed(&mut parser, black_box(&calls), &mut events);
        assert_eq!(events.len(), 6);
    });
}
