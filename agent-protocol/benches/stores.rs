//! What a request and its answer cost the parsers of key-value stores and message brokers, with allocations, one call each.
//! Run: `cargo bench -p agent-protocol --bench stores`.

use agent_protocol::{
    memcached, mqtt, nats, redis,
    session::{Input, Parser, Side},
};
use divan::{AllocProfiler, Bencher, black_box, counter::ItemsCount};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

/// `count` exchanges per iteration; `said` events of each.
fn exchange(bencher: Bencher, mut parser: Box<dyn Parser>, calls: [&[u8]; 2], count: usize, said: usize) {
    let mut events = Vec::with_capacity(said * count);
    bencher.counter(ItemsCount::new(count)).bench_local(|| {
        parser.feed(Side::Client, Input::Bytes(black_box(calls[0])), &mut events);
        parser.feed(Side::Server, Input::Bytes(black_box(calls[1])), &mut events);
        assert_eq!(events.len(), said * count);
        events.clear();
    });
}

#[divan::bench(sample_size = 256)]
fn redis_get(bencher: Bencher) {
    exchange(bencher, redis::new(), [b"*2\r\n$3\r\nGET\r\n$6\r\nuser:1\r\n", b"$3\r\nabc\r\n"], 1, 2);
}

#[divan::bench(sample_size = 64)]
fn redis_set_16_pipelined(bencher: Bencher) {
    let sets = b"*3\r\n$3\r\nSET\r\n$16\r\nkey:__rand_int__\r\n$10\r\nVXKeHogKgJ\r\n".repeat(16);
    exchange(bencher, redis::new(), [&sets, &b"+OK\r\n".repeat(16)], 16, 2);
}

#[divan::bench(sample_size = 256)]
fn memcached_get(bencher: Bencher) {
    exchange(bencher, memcached::new(), [b"get user:1\r\n", b"VALUE user:1 0 3\r\nabc\r\nEND\r\n"], 1, 2);
}

#[divan::bench(sample_size = 256)]
fn memcached_binary_get(bencher: Bencher) {
    let get = b"\x80\x00\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0a";
    let miss = b"\x81\x00\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    exchange(bencher, memcached::new(), [get, miss], 1, 2);
}

#[divan::bench(sample_size = 256)]
fn nats_publish_and_deliver(bencher: Bencher) {
    exchange(bencher, nats::new(), [b"PUB orders.new 5\r\nhello\r\n", b"MSG orders.new 1 5\r\nhello\r\n"], 1, 2);
}

#[divan::bench(sample_size = 256)]
fn mqtt_publish_qos1(bencher: Bencher) {
    exchange(bencher, mqtt::new(), [b"\x32\x0e\0\x05a/b/c\0\x01hello", b"\x40\x02\0\x01"], 1, 2);
}
