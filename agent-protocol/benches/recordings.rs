//! What the messages of recorded conversations cost the parsers of queues and document stores, with allocations; one item is one
//! request, answer or message. Run: `cargo bench -p agent-protocol --bench recordings`.

use agent_protocol::{
    detect::parser,
    fuzzing::sessions::{Fed, conversation, feed},
    session::{Input, Protocol},
};
use divan::{AllocProfiler, Bencher, black_box, counter::ItemsCount};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

/// A whole conversation per iteration, with a parser of its own.
fn replay(bencher: Bencher, protocol: Protocol, text: &str) {
    let pieces = conversation(text);
    let new = || parser(protocol).expect("a parser of both directions");
    let said = feed(new(), &pieces).len();
    let mut events = Vec::with_capacity(said);
    bencher.counter(ItemsCount::new(said)).bench_local(|| {
        let mut parser = new();
        for piece in &pieces {
            let (from, input) = match piece {
                Fed::Bytes(from, bytes) => (*from, Input::Bytes(bytes)),
                Fed::Gap(from, gap) => (*from, Input::Gap(*gap)),
            };
            parser.feed(from, black_box(input), &mut events);
        }
        assert_eq!(events.len(), said);
        events.clear();
    });
}

macro_rules! recording {
    ($name:ident, $protocol:ident, $path:literal) => {
        #[divan::bench]
        fn $name(bencher: Bencher) {
            replay(bencher, Protocol::$protocol, include_str!(concat!("../fixtures/", $path, ".session")));
        }
    };
}

recording!(kafka_produce, Kafka, "kafka/produce");
recording!(kafka_produce_zstd, Kafka, "kafka/produce-zstd");
recording!(kafka_fetch, Kafka, "kafka/fetch");
recording!(mongodb, Mongodb, "mongodb/pymongo");
recording!(mongodb_snappy, Mongodb, "mongodb/pymongo-snappy");
recording!(amqp, Amqp, "amqp/pika");
recording!(cassandra_v4_lz4, Cassandra, "cassandra/python-v4-lz4");
recording!(cassandra_v5, Cassandra, "cassandra/python-v5");
