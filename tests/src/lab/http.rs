//! A fetch of one page, small enough to be obviously right: HTTP/1.0, so the end of the stream ends the body.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// What a server answered.
#[derive(Clone, Debug)]
pub struct Page {
    /// Status code.
    pub status: u16,
    /// Header lines, as sent.
    pub head: String,
    /// Body, lossily decoded.
    pub body: String,
}

/// Most bytes of a page that are read.
const PAGE_BYTES_MAX: u64 = 1 << 20;

/// Fetches `path` from a port of this machine.
///
/// # Errors
/// In words: no connection, no answer in time, or no HTTP.
pub fn get(port: u16, path: &str, timeout: Duration) -> Result<Page, String> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut stream =
        TcpStream::connect_timeout(&address, timeout).map_err(|e| format!("connecting to {address}: {e}"))?;
    stream
        .set_read_timeout(Some(timeout))
        .map_err(|e| e.to_string())?;
    stream
        .set_write_timeout(Some(timeout))
        .map_err(|e| e.to_string())?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .map_err(|e| format!("asking {address}: {e}"))?;
    let mut bytes = Vec::new();
    stream
        .take(PAGE_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(|e| format!("reading from {address}: {e}"))?;
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text
        .split_once("\r\n\r\n")
        .ok_or_else(|| format!("{address} answered no HTTP: {} bytes", bytes.len()))?;
    let status = head
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1))
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| format!("{address} answered no HTTP status"))?;
    Ok(Page {
        status,
        head: head.to_owned(),
        body: body.to_owned(),
    })
}

impl Page {
    /// Value of a header, if it was sent.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .find_map(|(key, value)| key.eq_ignore_ascii_case(name).then(|| value.trim()))
    }
}
