//! An agent that says what a test has written down, and remembers what it was asked.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::world::World;

type Answers = BTreeMap<String, (u16, Value)>;

/// Listens on `agent.sock` of a world until the test ends.
pub(crate) struct Scripted {
    answers: Arc<Mutex<Answers>>,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Scripted {
    /// One that knows nothing but its name, `node-a`.
    pub(crate) fn new(world: &World) -> Self {
        let listener = UnixListener::bind(world.path("agent.sock")).expect("a socket");
        let scripted = Self {
            answers: Arc::default(),
            asked: Arc::default(),
        };
        let (answers, asked) = (Arc::clone(&scripted.answers), Arc::clone(&scripted.asked));
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                serve(&stream.expect("a connection"), &answers, &asked);
            }
        });
        scripted.answer(
            "GET /v1/status",
            200,
            json!({
                "formatVersion": 1, "phase": "converged", "summary": "all is as desired", "accepted": null,
                "rejected": null, "run": null, "slivers": [], "strangers": [], "problems": [],
                "node": {"name": "node-a", "fleet": "demo", "site": "home", "hypervisor": "qemu", "version": "0.1.0",
                         "pid": 1, "startedMs": 0, "nowMs": 0, "memory": null},
                "source": {"repository": "r", "branch": "main", "head": null, "readMs": null, "failure": null},
            }),
        );
        scripted
    }

    /// From now on a question is answered so.
    pub(crate) fn answer(&self, question: &str, status: u16, answer: Value) {
        self.answers
            .lock()
            .expect("unharmed")
            .insert(question.to_owned(), (status, answer));
    }

    /// What was asked with a body since the last time.
    pub(crate) fn asked(&self) -> Vec<(String, Value)> {
        std::mem::take(&mut self.asked.lock().expect("unharmed"))
    }
}

fn serve(stream: &UnixStream, answers: &Mutex<Answers>, asked: &Mutex<Vec<(String, Value)>>) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    let (mut question, mut length) = (String::new(), 0);
    loop {
        line.clear();
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
            break;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [method, path, "HTTP/1.1"] => question = format!("{method} {path}"),
            [name, value] if name.eq_ignore_ascii_case("content-length:") => {
                length = value.parse().unwrap_or(0)
            }
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    if let Ok(body) = serde_json::from_slice(&body) {
        asked.lock().expect("unharmed").push((question.clone(), body));
    }
    let known = answers.lock().expect("unharmed").get(&question).cloned();
    let missing = || {
        (
            404,
            json!({ "formatVersion": 1, "error": format!("nobody wrote down {question}") }),
        )
    };
    let (status, answer) = known.unwrap_or_else(missing);
    let text = answer.to_string();
    // Whoever asked may have gone.
    let _ = write!(
        &mut &*stream,
        "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
        text.len()
    );
}
