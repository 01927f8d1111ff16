//! A line between two nodes that can be cut, and mended.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use super::{LabError, LabResult};

/// How a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// Everything goes through.
    Whole,
    /// Nobody gets through, and who was through is cut off.
    Cut,
    /// What is asked goes through, and no answer does.
    NoAnswers,
}

/// A port of loopback from which connections lead to another one.
#[derive(Debug)]
pub struct Link {
    /// Where it begins.
    pub port: u16,
    state: Arc<AtomicU8>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Link {
    /// A whole line to this port of loopback.
    ///
    /// # Errors
    /// [`LabError::Io`].
    pub fn to(target: u16) -> LabResult<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(LabError::io("listening for a line"))?;
        let port = listener
            .local_addr()
            .map_err(LabError::io("listening for a line"))?
            .port();
        let link = Self {
            port,
            state: Arc::new(AtomicU8::new(0)),
            open: Arc::default(),
        };
        let (state, open) = (Arc::clone(&link.state), Arc::clone(&link.open));
        // It goes with the test's process.
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                if state.load(Ordering::SeqCst) == Line::Cut as u8 {
                    continue;
                }
                let Ok(far) = TcpStream::connect(("127.0.0.1", target)) else {
                    continue;
                };
                carry(&near, &far, &state, &open);
            }
        });
        Ok(link)
    }

    /// Makes it whole, or not.
    ///
    /// # Panics
    /// Never: nobody panics with its connections.
    pub fn turn(&self, line: Line) {
        self.state.store(line as u8, Ordering::SeqCst);
        if line != Line::NoAnswers {
            // What lost an answer is never whole again.
            for stream in self.open.lock().expect("nobody panics with it").drain(..) {
                // It may have ended by itself.
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }
}

fn carry(near: &TcpStream, far: &TcpStream, state: &Arc<AtomicU8>, open: &Mutex<Vec<TcpStream>>) {
    for (from, to, answers) in [(near, far, false), (far, near, true)] {
        let (Ok(mut from), Ok(mut to), Ok(kept)) = (from.try_clone(), to.try_clone(), from.try_clone())
        else {
            return;
        };
        open.lock().expect("nobody panics with it").push(kept);
        let state = Arc::clone(state);
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(read @ 1..) = from.read(&mut buffer) {
                if answers && state.load(Ordering::SeqCst) == Line::NoAnswers as u8 {
                    continue;
                }
                if to.write_all(&buffer[..read]).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Write);
        });
    }
}
