//! A small client of the QEMU machine protocol: one JSON object a line, a greeting, commands with answers, events in
//! between (QEMU: `docs/interop/qmp-spec.txt`).
//!
//! What events tell can be asked for, and a connection that was not there did not hear them: so they only wake whoever
//! waits for something ([`Qmp::event`]), who asks then.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Longest line that is read. QEMU's longest answers are far shorter.
pub const LINE_LEN_MAX: usize = 1 << 20;
/// Messages passed over while one answer is waited for.
const SKIPPED_MAX: usize = 1000;
/// Events kept that nobody has waited for yet; of more the oldest are forgotten.
const EVENTS_MAX: usize = 100;

/// Why a command got no good answer.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// The connection failed.
    #[error("the control socket failed")]
    Io(#[source] io::Error),
    /// No answer in time.
    #[error("no answer on the control socket to {0} in time")]
    Timeout(&'static str),
    /// QEMU closed the connection.
    #[error("the control socket was closed")]
    Closed,
    /// What came is not the protocol.
    #[error("the control socket does not speak QMP: {0}")]
    Garbage(String),
    /// The command was refused.
    #[error("{command} was refused: {class}: {description}")]
    Refused {
        /// The command.
        command: &'static str,
        /// QEMU's error class.
        class: String,
        /// QEMU's words.
        description: String,
    },
}

/// One line from QEMU.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// The first line of a connection.
    Greeting,
    /// The answer to the command with this id.
    Return {
        /// The id the command had.
        id: Option<u64>,
        /// The answer.
        value: Value,
    },
    /// The refusal of the command with this id.
    Error {
        /// The id the command had; none if QEMU did not get that far.
        id: Option<u64>,
        /// Error class.
        class: String,
        /// In words.
        description: String,
    },
    /// Something happened.
    Event {
        /// What.
        name: String,
    },
}

impl Message {
    /// Reads one line.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(line: &[u8]) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        let Value::Object(mut message) = value else {
            return Err("a message is not an object".into());
        };
        let id = message.get("id").and_then(Value::as_u64);
        let text = |value: Option<&Value>| {
            let text = value.and_then(Value::as_str).unwrap_or_default();
            text.chars().take(500).collect::<String>()
        };
        if let Some(value) = message.remove("return") {
            return Ok(Self::Return { id, value });
        }
        if let Some(error) = message.get("error") {
            return Ok(Self::Error {
                id,
                class: text(error.get("class")),
                description: text(error.get("desc")),
            });
        }
        if message.contains_key("event") {
            let name = text(message.get("event"));
            return Ok(Self::Event { name });
        }
        if message.contains_key("QMP") {
            return Ok(Self::Greeting);
        }
        Err("a message is neither greeting, answer, error nor event".into())
    }
}

/// A connection on which commands can be given.
#[derive(Debug)]
pub struct Qmp {
    stream: BufReader<UnixStream>,
    limit: Duration,
    next_id: u64,
    /// Names of events that came while an answer was waited for.
    events: VecDeque<String>,
}

impl Qmp {
    /// Connects and shakes hands; each step and each later command may take `limit`. QEMU serves one connection at a
    /// time: another one that stays open makes this time out.
    ///
    /// # Errors
    /// [`QmpError`].
    pub async fn connect(path: &Path, limit: Duration) -> Result<Self, QmpError> {
        let stream = timeout(limit, UnixStream::connect(path))
            .await
            .map_err(|_| QmpError::Timeout("connect"))?
            .map_err(QmpError::Io)?;
        Self::over(stream, limit).await
    }

    async fn over(stream: UnixStream, limit: Duration) -> Result<Self, QmpError> {
        let mut qmp = Self {
            stream: BufReader::new(stream),
            limit,
            next_id: 0,
            events: VecDeque::new(),
        };
        let greeting = timeout(limit, qmp.read_message())
            .await
            .map_err(|_| QmpError::Timeout("the greeting"))??;
        if greeting != Message::Greeting {
            return Err(QmpError::Garbage("it does not greet".into()));
        }
        qmp.execute("qmp_capabilities").await?;
        Ok(qmp)
    }

    /// The process that listens on the socket, as the kernel knows it (unix(7), `SO_PEERCRED`).
    #[must_use]
    pub fn peer_pid(&self) -> Option<u32> {
        let peer = self.stream.get_ref().peer_cred().ok()?;
        peer.pid().and_then(|pid| u32::try_from(pid).ok())
    }

    /// Gives a command without arguments and waits for its answer.
    ///
    /// # Errors
    /// [`QmpError`]. After one other than [`QmpError::Refused`] the connection is of no more use.
    pub async fn execute(&mut self, command: &'static str) -> Result<Value, QmpError> {
        self.give(command, None, None).await
    }

    /// Gives a command with arguments and waits for its answer.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub async fn execute_with(&mut self, command: &'static str, arguments: Value) -> Result<Value, QmpError> {
        self.give(command, Some(arguments), None).await
    }

    /// Waits for an event of this name that has come since the last time this was asked, at most for `limit`; whether one
    /// came. Not safe to give up half-way: afterwards the connection is of no more use.
    ///
    /// # Errors
    /// As [`Qmp::execute`], except that no answer in time is none.
    pub async fn event(&mut self, wanted: &str, limit: Duration) -> Result<bool, QmpError> {
        let until = tokio::time::Instant::now() + limit;
        loop {
            while let Some(name) = self.events.pop_front() {
                if name == wanted {
                    return Ok(true);
                }
            }
            // Only the wait for a first byte is given up: a line that has begun is read to its end.
            match tokio::time::timeout_at(until, self.stream.fill_buf()).await {
                Err(_) => return Ok(false),
                Ok(Err(error)) => return Err(QmpError::Io(error)),
                Ok(Ok(_)) => {}
            }
            let message = timeout(self.limit, self.read_message())
                .await
                .map_err(|_| QmpError::Timeout("the end of a line"))??;
            if let Message::Event { name } = message {
                self.keep_event(name);
            }
        }
    }

    fn keep_event(&mut self, name: String) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(name);
    }

    /// Gives QEMU an open file under a name, for commands that take `fd:NAME`. It gets a descriptor of its own.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub async fn give_file(&mut self, name: &str, file: BorrowedFd<'_>) -> Result<(), QmpError> {
        let arguments = json!({ "fdname": name });
        self.give("getfd", Some(arguments), Some(file)).await.map(drop)
    }

    /// Gives a line to the human monitor, which answers in prose: nothing as a rule, and failures are prose too.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub async fn human(&mut self, line: &str) -> Result<String, QmpError> {
        let command = "human-monitor-command";
        let answer = self
            .execute_with(command, json!({ "command-line": line }))
            .await?;
        let text = answer.as_str().map(str::to_owned);
        text.ok_or_else(|| QmpError::Garbage(format!("{command} answers without text")))
    }

    async fn give(
        &mut self,
        command: &'static str,
        arguments: Option<Value>,
        file: Option<BorrowedFd<'_>>,
    ) -> Result<Value, QmpError> {
        timeout(self.limit, self.exchange(command, arguments, file))
            .await
            .map_err(|_| QmpError::Timeout(command))?
    }

    /// The UUID the domain was given.
    ///
    /// # Errors
    /// [`QmpError`].
    pub async fn uuid(&mut self) -> Result<String, QmpError> {
        self.text_of("query-uuid", "UUID").await
    }

    /// The run state, one of QEMU's `RunState`.
    ///
    /// # Errors
    /// [`QmpError`].
    pub async fn status(&mut self) -> Result<String, QmpError> {
        self.text_of("query-status", "status").await
    }

    async fn text_of(&mut self, command: &'static str, field: &str) -> Result<String, QmpError> {
        let answer = self.execute(command).await?;
        let text = answer.get(field).and_then(Value::as_str);
        text.map(str::to_owned)
            .ok_or_else(|| QmpError::Garbage(format!("{command} answers without {field}")))
    }

    async fn exchange(
        &mut self,
        command: &'static str,
        arguments: Option<Value>,
        file: Option<BorrowedFd<'_>>,
    ) -> Result<Value, QmpError> {
        self.next_id += 1;
        let wanted = self.next_id;
        let mut message = json!({ "execute": command, "id": wanted });
        if let Some(arguments) = arguments {
            message["arguments"] = arguments;
        }
        let mut line = message.to_string();
        line.push('\n');
        let sent = match file {
            Some(file) => self
                .send_with(line.as_bytes(), file)
                .await
                .map_err(QmpError::Io)?,
            None => 0,
        };
        self.stream
            .write_all(&line.as_bytes()[sent..])
            .await
            .map_err(QmpError::Io)?;
        for _ in 0..SKIPPED_MAX {
            match self.read_message().await? {
                Message::Return { id, value } if id == Some(wanted) => return Ok(value),
                Message::Error {
                    id,
                    class,
                    description,
                } if id == Some(wanted) || id.is_none() => {
                    return Err(QmpError::Refused {
                        command,
                        class,
                        description,
                    });
                }
                Message::Event { name } => self.keep_event(name),
                // Answers to commands that were given up.
                Message::Return { .. } | Message::Error { .. } => {}
                Message::Greeting => return Err(QmpError::Garbage("it greets twice".into())),
            }
        }
        Err(QmpError::Garbage(format!(
            "{SKIPPED_MAX} messages, none of them the answer"
        )))
    }

    /// Sends the start of `bytes` together with a descriptor (unix(7), `SCM_RIGHTS`); says how much went.
    async fn send_with(&mut self, bytes: &[u8], file: BorrowedFd<'_>) -> io::Result<usize> {
        let stream = self.stream.get_ref();
        let send = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            let files = [file];
            if !ancillary.push(SendAncillaryMessage::ScmRights(&files)) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            let sent = sendmsg(
                stream,
                &[IoSlice::new(bytes)],
                &mut ancillary,
                SendFlags::NOSIGNAL,
            )?;
            Ok(sent)
        };
        stream.async_io(Interest::WRITABLE, send).await
    }

    async fn read_message(&mut self) -> Result<Message, QmpError> {
        let mut line = Vec::new();
        loop {
            let chunk = self.stream.fill_buf().await.map_err(QmpError::Io)?;
            if chunk.is_empty() {
                return Err(QmpError::Closed);
            }
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let take = end.map_or(chunk.len(), |at| at + 1);
            if line.len() + take > LINE_LEN_MAX {
                return Err(QmpError::Garbage("a line does not end".into()));
            }
            line.extend_from_slice(&chunk[..take]);
            self.stream.consume(take);
            if end.is_some() {
                return Message::parse(&line).map_err(QmpError::Garbage);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt;

    const GREETING: &str = "{\"QMP\":{\"version\":{},\"capabilities\":[]}}\r\n";

    /// Plays QEMU's lines to a client that shakes hands and asks for the status.
    async fn status_after(lines: &[u8]) -> Result<String, QmpError> {
        let (client, mut server) = UnixStream::pair().unwrap();
        let lines = lines.to_vec();
        let play = tokio::spawn(async move {
            server.write_all(&lines).await.ok();
            server.shutdown().await.ok();
            let mut asked = Vec::new();
            server.read_to_end(&mut asked).await.ok();
        });
        let result = async {
            let mut qmp = Qmp::over(client, Duration::from_secs(10)).await?;
            qmp.status().await
        }
        .await;
        play.await.unwrap();
        result
    }

    async fn check(lines: &str, expected: &str) {
        let seen = match status_after(format!("{GREETING}{lines}").as_bytes()).await {
            Ok(status) => status,
            Err(error) => crate::chain(&error),
        };
        assert!(seen.contains(expected), "{lines}: {seen}");
    }

    #[tokio::test]
    async fn answers_are_told_from_events_and_from_late_answers() {
        let hand = "{\"return\":{},\"id\":1}\n";
        let event = "{\"event\":\"RESUME\",\"timestamp\":{}}\n";
        let late = "{\"return\":{\"status\":\"paused\"},\"id\":1}\n";
        let answer = "{\"return\":{\"status\":\"running\"},\"id\":2}\n";
        check(&format!("{hand}{event}{late}{answer}"), "running").await;
    }

    #[tokio::test]
    async fn events_are_kept_until_somebody_waits_for_one() {
        let (client, mut server) = UnixStream::pair().unwrap();
        let hand = "{\"return\":{},\"id\":1}\n";
        let event = |name: &str| format!("{{\"event\":\"{name}\",\"data\":{{}}}}\n");
        let answer = "{\"return\":{\"status\":\"running\"},\"id\":2}\n";
        let lines = [
            GREETING,
            hand,
            &event("STOP"),
            &event("MIGRATION"),
            answer,
            &event("RESUME"),
        ]
        .concat();
        server.write_all(lines.as_bytes()).await.unwrap();
        let mut qmp = Qmp::over(client, Duration::from_secs(10)).await.unwrap();
        assert_eq!(qmp.status().await.unwrap(), "running");
        let soon = Duration::from_millis(1);
        assert!(qmp.event("MIGRATION", soon).await.unwrap());
        assert!(qmp.event("RESUME", Duration::from_secs(10)).await.unwrap());
        assert!(
            !qmp.event("STOP", soon).await.unwrap(),
            "what came before is passed over"
        );
        drop(server);
        qmp.event("STOP", Duration::from_secs(10)).await.unwrap_err();
    }

    #[tokio::test]
    async fn what_is_wrong_is_said() {
        let hand = "{\"return\":{},\"id\":1}\n";
        let refusal = "{\"error\":{\"class\":\"GenericError\",\"desc\":\"not now\"},\"id\":2}\n";
        check(
            &format!("{hand}{refusal}"),
            "query-status was refused: GenericError: not now",
        )
        .await;
        check(&format!("{hand}{{\"return\":{{}},\"id\":2}}\n"), "without status").await;
        check(hand, "closed").await;
        check("", "closed").await;
        check("}{\n", "does not speak QMP").await;
        check("[]\n", "not an object").await;
        check("{}\n", "neither greeting").await;
        check(GREETING, "greets twice").await;
        check(&"x".repeat(LINE_LEN_MAX + 1), "does not end").await;
        check(&event_flood(), "none of them the answer").await;
    }

    fn event_flood() -> String {
        "{\"event\":\"X\"}\n".repeat(SKIPPED_MAX + 1)
    }

    #[tokio::test]
    async fn a_silent_socket_times_out() {
        let (client, _server) = UnixStream::pair().unwrap();
        let error = Qmp::over(client, Duration::from_millis(1)).await.unwrap_err();
        assert!(matches!(error, QmpError::Timeout("the greeting")), "{error}");
    }

    proptest! {
        #[test]
        fn no_line_makes_the_parser_panic(line in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Message::parse(&line);
        }

        #[test]
        fn no_object_makes_the_parser_panic(key in "QMP|return|error|event|id", value in "[0-9]{1,30}|\"x\"|\\{\\}|\\[\\]|null") {
            let _ = Message::parse(format!("{{\"{key}\":{value}}}").as_bytes());
        }
    }
}
