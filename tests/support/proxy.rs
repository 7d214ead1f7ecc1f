//! A way between a client and a server on which one answer is lost: what the client sent has arrived, and it never hears of it.
//!
//! In: the server's address. Out: an address that leads there; how many answers were lost. Real servers cannot be told to do this.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

/// How often the end is looked for.
const POLL: Duration = Duration::from_millis(20);

/// The way; it ends with the guard.
pub struct Proxy {
    address: String,
    state: Arc<State>,
}

struct State {
    to: String,
    /// Part of an answer by which it is known.
    answer: &'static [u8],
    loses_next: AtomicBool,
    lost: AtomicU64,
    is_over: AtomicBool,
}

impl Proxy {
    /// To this server; `answer` is a part of what is lost when it is asked for.
    pub fn start(to: &str, answer: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("non-blocking");
        let address = listener.local_addr().expect("an address").to_string();
        let state = Arc::new(State {
            to: to.to_owned(),
            answer,
            loses_next: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        });
        let of_thread = Arc::clone(&state);
        thread::spawn(move || of_thread.accept(&listener));
        Self { address, state }
    }

    /// `ip:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The next answer does not arrive, and its connection ends.
    pub fn lose_next(&self) {
        self.state.loses_next.store(true, SeqCst);
    }

    /// How many were lost.
    pub fn lost(&self) -> u64 {
        self.state.lost.load(SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.is_over.store(true, SeqCst);
    }
}

impl State {
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        while !self.is_over.load(SeqCst) {
            match listener.accept() {
                Ok((client, _)) => {
                    // Who cannot be led on is left alone, as by a server that is not there.
                    let _ = self.lead(client);
                }
                Err(_) => thread::sleep(POLL),
            }
        }
    }

    fn lead(self: &Arc<Self>, client: TcpStream) -> io::Result<()> {
        let server = TcpStream::connect(&self.to)?;
        for stream in [&client, &server] {
            stream.set_nonblocking(false)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(POLL))?;
        }
        let (to_server, to_client) = (server.try_clone()?, client.try_clone()?);
        let (there, back) = (Arc::clone(self), Arc::clone(self));
        thread::spawn(move || there.carry(client, to_server, false));
        thread::spawn(move || back.carry(server, to_client, true));
        Ok(())
    }

    /// Until one of them ends.
    fn carry(&self, mut from: TcpStream, mut to: TcpStream, are_answers: bool) {
        let mut bytes = vec![0; 64 << 10];
        while !self.is_over.load(SeqCst) {
            let read = match from.read(&mut bytes) {
                Ok(0) => break,
                Ok(read) => &bytes[..read],
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => continue,
                Err(_) => break,
            };
            let is_answer = are_answers && read.windows(self.answer.len()).any(|window| window == self.answer);
            if is_answer && self.loses_next.swap(false, SeqCst) {
                self.lost.fetch_add(1, SeqCst);
                break;
            }
            if to.write_all(read).is_err() {
                break;
            }
        }
        for stream in [&from, &to] {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
