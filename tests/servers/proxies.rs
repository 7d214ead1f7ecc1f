//! Proxies: a request is seen at its client, at both ends of the proxy and at the server behind it.
//!
//! Truth: the proxy's own log, a line per request, and the log of the server behind it.
