#![allow(missing_docs)]
use agent::kernel::{attach::*, load::*, ring::Ring, select::*};
use agent_common::{connection::*, header::{kind, RecordHeader}, message::*, process::*};
fn main() {
    let pid: u32 = std::env::args().nth(1).unwrap().parse().unwrap();
    let rung = std::env::args().nth(2).and_then(|r| Rung::from_name(&r));
    tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_writer(std::io::stderr).init();
    let mut l = match load(&LoadOptions { attach: AttachOptions { rung, without: vec![] }, ..Default::default() }) { Ok(l) => l, Err(e) => { println!("LOAD {e} {e:?}"); return; } };
    for h in l.capture.hooks() { println!("{:24} {:?} {}", h.name, h.rung, h.detail); }
    l.selection.apply(&Wanted { select: Rules { pids: vec![pid], ..Default::default() }, exclude: Default::default(), select_all: false, unselected_timing: false, payload_bytes_max: 1024 }).unwrap();
    let mut ring = Ring::new(l.records, l.wake);
    println!("ready");
    let end = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while std::time::Instant::now() < end {
        ring.sleep_until_record(std::time::Duration::from_millis(500), -1);
        ring.drain(100000, |b| {
            let h: RecordHeader = agent_common::read(b).unwrap();
            match h.kind {
                kind::CONNECTION => println!("{:?}", agent_common::read::<ConnectionRecord>(b).unwrap()),
                kind::SEND => println!("{:?}", agent_common::read::<SendRecord>(b).unwrap()),
                kind::CALL => { let c = agent_common::read::<CallRecord>(b).unwrap(); println!("{c:?} {:?}", String::from_utf8_lossy(&b[128..128 + c.payload_len as usize])) }
                kind::ARRIVAL => println!("{:?}", agent_common::read::<ArrivalRecord>(b).unwrap()),
                _ => { let p = agent_common::read::<ProcessRecord>(b).unwrap(); println!("PROCESS {} {} {}", p.pid, p.change, String::from_utf8_lossy(&p.filename)) }
            }
        });
    }
    for (r, c) in l.capture.losses() { println!("{} {:?}", r.name(), c); }
}
