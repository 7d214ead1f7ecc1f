//! Cost of one exchange, from its records to its redacted span: write, acknowledgement, read.

use agent_common::header::RecordHeader;
use agent_core::{
    pipeline::{ClockOffset, Pipeline, PipelineConfig},
    span::{MonotonicNs, ProcessFacts},
    testing::{End, Kernel},
};
use divan::{Bencher, counter::ItemsCount};

const EXCHANGES: u64 = 1000;

fn main() {
    divan::main();
}

/// Keep-alive exchanges, ten per millisecond, spread over `connections`.
fn records(connections: u64, selected: bool) -> Vec<Vec<u8>> {
    let mut kernel = Kernel::default();
    let mut clients: Vec<End> =
        (0..connections).map(|id| End { id, local: 20_000 + id as u16, selected, ..End::client() }).collect();
    for client in &clients {
        client.open(&mut kernel, 1_000_000);
    }
    let request = b"GET /items/42 HTTP/1.1\r\nHost: shop.test\r\nUser-Agent: bench/1.0\r\nAccept: */*\r\n\r\n";
    let response = b"HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello";
    for index in 0..EXCHANGES {
        let client = &mut clients[(index % connections) as usize];
        let at = 2_000_000 + index * 100;
        if selected {
            client.write(&mut kernel, at, at + 30, request);
            client.acked(&mut kernel, at + 60, request.len() as u32, [at, at + 20, at + 60], 0);
        } else {
            client.write_unselected(&mut kernel, [at, at + 20, at + 60], request.len() as u32, 0);
        }
        client.read_at(&mut kernel, at + 90, response);
    }
    kernel.records
}

fn bench(bencher: Bencher<'_, '_>, records: &[Vec<u8>]) {
    bencher
        .counter(ItemsCount::new(EXCHANGES))
        .with_inputs(|| Pipeline::new(PipelineConfig::default(), ClockOffset::default()))
        .bench_local_values(|mut pipeline| {
            let mut spans = 0;
            for chunk in records.chunks(64) {
                chunk.iter().for_each(|record| pipeline.record(record));
                let last =
                    agent_common::read::<RecordHeader>(&chunk[chunk.len() - 1]).map_or(0, |header| header.time_ns);
                for pid in pipeline.wanted_facts() {
                    pipeline.facts(ProcessFacts { pid, ..ProcessFacts::default() });
                }
                pipeline.tick(MonotonicNs(last));
                spans += pipeline.drain().len();
            }
            pipeline.flush(MonotonicNs(10_000_000_000));
            spans += pipeline.drain().len();
            assert_eq!(spans, EXCHANGES as usize);
        });
}

#[divan::bench(args = [1, 100])]
fn http(bencher: Bencher<'_, '_>, connections: u64) {
    bench(bencher, &records(connections, true));
}

#[divan::bench(args = [1, 100])]
fn tcp(bencher: Bencher<'_, '_>, connections: u64) {
    bench(bencher, &records(connections, false));
}
