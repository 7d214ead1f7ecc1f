//! As many requests as two CPUs can do: what is missing is counted.
//!
//! Truth: nginx's access log, one line per request.

use std::time::Duration;

use spantap_tests::{nginx::Nginx, span::Span, tools::wrk, traced::Traced};

/// Losses of the kernel side that can cost a request its span, each counted once for what was lost. Those of userspace
/// say the same again from its own view (`kernel_records_lost`, `message_lost`, …), so they are not added.
const HARMFUL: &[&str] = &[
    "ring_full",
    "connection_table_full",
    "task_table_full",
    "payload_unreadable",
    "kernel_read_failed",
    "collision",
    "too_many_buffers",
];

#[test]
fn the_access_log_is_the_spans_and_the_requests_touched_by_losses() {
    let traced = Traced::new("wrk");
    let nginx = Nginx::start(traced.place());
    let nginx_pid = nginx.pid();
    wrk(Default::default(), &format!("http://{}/w", nginx.address), 32, Duration::from_secs(3));
    let lines = nginx.finish().len();

    let whole =
        |spans: &[Span]| spans.iter().filter(|span| span.kind == "server" && span.http_status() == Some(200)).count();
    let counted = || {
        let kernel = traced.agent.losses_where(|source| source.starts_with("kernel"));
        HARMFUL.iter().filter_map(|reason| kernel.get(*reason)).sum::<u64>()
    };
    let all = |spans: &[Span]| whole(spans) as u64 + counted() >= lines as u64;
    let spans = traced.agent.wait_for("all spans", Duration::from_secs(60), all);
    let (servers, counted, losses) = (whole(&spans), counted(), traced.agent.losses());
    println!("{lines} lines, {servers} whole server spans, {} spans in all, losses {losses:?}", spans.len());

    assert!(lines > 5_000, "wrk made only {lines} requests");
    assert!(spans.iter().all(|span| span.kind == "server" && span.pid == nginx_pid), "spans that nobody asked for");
    assert!(servers <= lines, "{} spans were invented", servers - lines.min(servers));
    let missing = (lines - servers) as u64;
    assert!(
        missing <= counted,
        "{missing} requests have no whole span, but only {counted} losses are counted: {losses:?}"
    );
    // Two CPUs make requests as fast as they can and the agent gets what is left; that it keeps up is the benchmark's business.
    assert!(servers > 1_000, "the agent saw only {servers} of {lines} requests: {losses:?}");
}
