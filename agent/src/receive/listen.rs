//! Sockets that listen: TCP addresses and unix sockets.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc};

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::{ReceiveError, tls::ServerTls};
use crate::{
    config::{Address, Receive},
    query::access::{self, BindError},
};

/// What is received at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Takes {
    pub grpc: bool,
    pub http: bool,
}

/// A socket that listens. Nothing is answered yet.
pub(super) struct Listener {
    pub socket: Socket,
    pub takes: Takes,
    pub address: Address,
    pub tls: Option<Arc<ServerTls>>,
}

pub(super) enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, #[expect(dead_code, reason = "removes the file when it goes")] SocketFile),
}

pub(super) enum Stream {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

/// Removes the socket's file when it goes.
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // The next start replaces what is left behind.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Opens every address of the configuration. Needs a tokio runtime.
pub(super) fn bind(receive: &Receive, tls: Option<&Arc<ServerTls>>) -> Result<Vec<Listener>, ReceiveError> {
    let mut listeners = Vec::new();
    for address in &receive.otlp_grpc {
        listeners.push(open("receive.otlp_grpc", address, Takes { grpc: true, http: false }, tls)?);
    }
    for address in &receive.otlp_http {
        listeners.push(open("receive.otlp_http", address, Takes { grpc: false, http: true }, tls)?);
    }
    for path in &receive.otlp_unix {
        let address = Address::Unix(path.clone());
        listeners.push(open("receive.otlp_unix", &address, Takes { grpc: true, http: true }, tls)?);
    }
    Ok(listeners)
}

fn open(
    key: &'static str,
    address: &Address,
    takes: Takes,
    tls: Option<&Arc<ServerTls>>,
) -> Result<Listener, ReceiveError> {
    match address {
        Address::Tcp(wanted) => {
            let failed = |cause| ReceiveError::Listen { key, address: address.clone(), cause };
            let (listener, actual) = listen(*wanted).map_err(failed)?;
            Ok(Listener { socket: Socket::Tcp(listener), takes, address: Address::Tcp(actual), tls: tls.cloned() })
        }
        Address::Unix(path) => {
            let listener = access::listen(path).map_err(|error| socket_error(key, error))?;
            let socket = Socket::Unix(listener, SocketFile(path.clone()));
            Ok(Listener { socket, takes, address: address.clone(), tls: None })
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let actual = listener.local_addr()?;
    Ok((TcpListener::from_std(listener)?, actual))
}

/// In the words of the receivers' keys.
fn socket_error(key: &'static str, error: BindError) -> ReceiveError {
    let (path, cause) = match error {
        BindError::Busy { path } => (path, "it is in use by a running process".to_owned()),
        BindError::NotASocket { path } => (path, "it exists and is not a socket".to_owned()),
        BindError::Io { operation, path, cause } => (path, format!("cannot {operation} it: {cause}")),
    };
    ReceiveError::Socket { key, path, cause }
}

impl Listener {
    /// The next connection.
    pub(super) async fn accept(&self) -> io::Result<Stream> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // Answers are one write each; without it they would wait for acknowledgements.
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream, peer))
            }
            Socket::Unix(listener, _) => Ok(Stream::Unix(listener.accept().await?.0)),
        }
    }
}
