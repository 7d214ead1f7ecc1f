//! `spantap conns`: connections, alive and of late, each with its life in one line.

use std::{cmp::Reverse, process::ExitCode};

use serde::Serialize;

use super::{Done, Output, json, text};
use crate::{
    cli::{ConnsArgs, ConnsOrder},
    query::{
        api::{ConnView, address_of},
        client::Client,
    },
};

/// Lines of the table if nothing else is asked for.
const LINES: usize = 50;

/// One line of `spantap conns --json`. What is not known is `null`, but `pid`: 0.
#[derive(Serialize)]
struct JsonConn<'a> {
    id: u64,
    local: &'a str,
    peer: &'a str,
    role: Option<&'a str>,
    pid: u32,
    state: &'a str,
    opened_unix_ns: Option<u64>,
    closed_unix_ns: Option<u64>,
    bytes_sent: u64,
    bytes_received: u64,
    exchanges: u64,
    retransmits_total: u64,
    retransmits_in_requests: u64,
    retransmits_handshake: u64,
    retransmits_outside: u64,
    out_of_order: u64,
    srtt_us: Option<u32>,
    min_rtt_us: Option<u32>,
    reset_by: Option<&'a str>,
    tls: Option<&'a str>,
}

pub(super) async fn conns(args: &ConnsArgs, output: &mut Output) -> Done {
    let mut conns = Client::connect(&args.read.socket).await?.connections().await?;
    let wanted = |conn: &ConnView| {
        args.peer
            .as_ref()
            .is_none_or(|peer| conn.peer == *peer || address_of(&conn.peer).trim_matches(['[', ']']) == peer)
    };
    conns.retain(wanted);
    sort(&mut conns, args.sort);
    let limit = |default| args.limit.map_or(default, |limit| if limit == 0 { usize::MAX } else { limit });
    if args.read.json {
        for conn in conns.iter().take(limit(usize::MAX)) {
            output.line(&json_line(conn))?;
        }
    } else {
        output.text(&render(&conns, limit(LINES), output.colour))?;
    }
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// The most first; of equal ones the newest.
fn sort(conns: &mut [ConnView], order: ConnsOrder) {
    let key = |conn: &ConnView| match order {
        ConnsOrder::Opened => 0,
        ConnsOrder::Retransmits => conn.retransmits_total,
        ConnsOrder::Bytes => conn.bytes_sent.saturating_add(conn.bytes_received),
        ConnsOrder::Rtt => u64::from(conn.srtt_us.unwrap_or(0)),
    };
    conns.sort_by_key(|conn| Reverse((key(conn), conn.opened_unix_ns, conn.id)));
}

fn json_line(conn: &ConnView) -> String {
    let known = |text| Some(text).filter(|text: &&str| !text.is_empty());
    json::line(&JsonConn {
        id: conn.id,
        local: &conn.local,
        peer: &conn.peer,
        role: known(&conn.role),
        pid: conn.pid,
        state: &conn.state,
        opened_unix_ns: conn.opened_unix_ns,
        closed_unix_ns: conn.closed_unix_ns,
        bytes_sent: conn.bytes_sent,
        bytes_received: conn.bytes_received,
        exchanges: conn.exchanges,
        retransmits_total: conn.retransmits_total,
        retransmits_in_requests: conn.retransmits_in_requests,
        retransmits_handshake: conn.retransmits_handshake,
        retransmits_outside: conn.retransmits_outside,
        out_of_order: conn.out_of_order,
        srtt_us: conn.srtt_us,
        min_rtt_us: conn.min_rtt_us,
        reset_by: known(&conn.reset_by),
        tls: known(&conn.tls),
    })
}

fn render(conns: &[ConnView], limit: usize, colour: bool) -> String {
    if conns.is_empty() {
        return "no connection is known; `spantap status` says what is attached and selected\n".to_owned();
    }
    let header = format!(
        "{:<27}  {:<8}  {:<6}  {:>8}  {:<21}  {:<21}  {:>10}  {:>10}  {:>9}  {:>21}  {:>5}  {:>12}  {:<8}  {}",
        "OPENED",
        "STATE",
        "ROLE",
        "PID",
        "LOCAL",
        "PEER",
        "SENT",
        "RECEIVED",
        "EXCHANGES",
        "RETRANSMITS (REQ+H+O)",
        "OOO",
        "RTT",
        "RESET BY",
        "TLS"
    );
    let mut out = text::dim(&header, colour) + "\n";
    for conn in conns.iter().take(limit) {
        out.push_str(&row(conn));
    }
    if let Some(more) = conns.len().checked_sub(limit).filter(|more| *more > 0) {
        out.push_str(&format!("and {more} more: --limit 0 prints all\n"));
    }
    let hint = "retransmits: of requests (a server's: of responses) + handshake + outside; OOO: segments that arrived out of order\n";
    out.push_str(&text::dim(hint, colour));
    out
}

fn row(conn: &ConnView) -> String {
    let opened = conn.opened_unix_ns.map_or_else(|| "before the agent".to_owned(), text::time);
    let retransmits = match conn.retransmits_total {
        0 => "0".to_owned(),
        total => format!(
            "{total} ({}+{}+{})",
            conn.retransmits_in_requests, conn.retransmits_handshake, conn.retransmits_outside
        ),
    };
    let rtt = conn.srtt_us.map_or_else(|| "-".to_owned(), |us| text::ms(u64::from(us) * 1_000));
    let line = format!(
        "{opened:<27}  {:<8}  {:<6}  {:>8}  {:<21}  {:<21}  {:>10}  {:>10}  {:>9}  {retransmits:>21}  {:>5}  {rtt:>12}  {:<8}  {}",
        conn.state,
        text::or_dash(&conn.role),
        if conn.pid == 0 { "-".to_owned() } else { conn.pid.to_string() },
        text::or_dash(&conn.local),
        text::or_dash(&conn.peer),
        text::bytes(conn.bytes_sent),
        text::bytes(conn.bytes_received),
        conn.exchanges,
        conn.out_of_order,
        text::or_dash(&conn.reset_by),
        text::or_dash(&conn.tls),
    );
    text::clean(&line) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::fixtures;

    #[test]
    fn connections_are_one_line_each() {
        let mut conns = fixtures::connections();
        sort(&mut conns, ConnsOrder::Opened);
        fixtures::check_golden("conns.txt", &render(&conns, 2, false));
        let lines: String = conns.iter().map(|conn| json_line(conn) + "\n").collect();
        fixtures::check_golden("conns.jsonl", &lines);
        assert!(render(&[], LINES, false).contains("spantap status"));
    }

    #[test]
    fn the_most_of_what_is_asked_for_comes_first() {
        let order = |order| {
            let mut conns = fixtures::connections();
            sort(&mut conns, order);
            conns.iter().map(|conn| conn.id).collect::<Vec<_>>()
        };
        assert_eq!(order(ConnsOrder::Opened), [3, 1, 2]);
        assert_eq!(order(ConnsOrder::Retransmits), [1, 3, 2]);
        assert_eq!(order(ConnsOrder::Bytes), [2, 1, 3]);
        assert_eq!(order(ConnsOrder::Rtt), [2, 1, 3]);
    }
}
