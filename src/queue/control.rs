//! Asking a running taskspan about its queue, over a Unix socket beside the store.
//!
//! ```text
//! taskspan queue … ─one line of JSON─▶ control.sock ─▶ Queue ─one line of JSON─▶ …
//! ```
//!
//! The store has one process. Who finds the socket dead opens the store himself.

#![expect(
    clippy::disallowed_methods,
    reason = "the socket lies in the state directory, not below a watched one"
)]

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::base::ids::TraceId;
use crate::queue::Queue;
use crate::queue::admin::{Listed, Verified};

const FILE: &str = "control.sock";

/// A question longer than this is none of ours.
const MAX_QUESTION_BYTES: u64 = 64 * 1024;
/// The list of very many exports.
const MAX_ANSWER_BYTES: u64 = 256 << 20;
/// How long exporters have to give back what a person drops.
const HANDED_BACK: Duration = Duration::from_secs(2);
/// How long the other side may take.
const PATIENCE: Duration = Duration::from_secs(30);
const MAX_CONNECTIONS: usize = 8;
/// Before the next connection is taken when the last one could not be.
const AFTER_ERROR: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Question {
    List,
    Retry {
        ids: Vec<u64>,
    },
    Drop {
        ids: Vec<u64>,
        force: bool,
    },
    Verify,
    /// Which of these traces were delivered, or dropped, and are not held any more.
    AreDone {
        trace_ids: Vec<TraceId>,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Listed(Vec<Listed>),
    /// The ids for which it was done.
    Done(Vec<u64>),
    Verified(Verified),
    AreDone(Vec<TraceId>),
    Failed(String),
}

/// Answers a question from the queue itself.
pub async fn answer(queue: &Queue, question: Question) -> Answer {
    let mut done = Vec::new();
    match question {
        Question::List => return Answer::Listed(queue.list()),
        Question::AreDone { trace_ids } => return Answer::AreDone(queue.are_done(&trace_ids)),
        Question::Verify => match queue.verify().await {
            Ok(verified) => return Answer::Verified(verified),
            Err(error) => return Answer::Failed(error),
        },
        Question::Retry { ids } => {
            for id in ids {
                match queue.retry(id).await {
                    Ok(true) => done.push(id),
                    Ok(false) => {}
                    Err(error) => return Answer::Failed(error),
                }
            }
        }
        Question::Drop { ids, force } => {
            let until = Instant::now() + HANDED_BACK;
            for id in ids {
                match queue.drop_entry(id, force, until).await {
                    Ok(true) => done.push(id),
                    Ok(false) => {}
                    Err(error) => return Answer::Failed(error),
                }
            }
        }
    }
    Answer::Done(done)
}

/// Asks the process that holds the store of this directory; none when there is none.
///
/// # Errors
/// It is there, and does not answer.
pub async fn ask(directory: &Path, question: &Question) -> io::Result<Option<Answer>> {
    let stream = match UnixStream::connect(directory.join(FILE)).await {
        Ok(stream) => stream,
        // No file, or one that a killed process left behind.
        Err(_) => return Ok(None),
    };
    let exchange = async {
        let (reader, mut writer) = stream.into_split();
        let mut line = serde_json::to_vec(question)?;
        line.push(b'\n');
        writer.write_all(&line).await?;
        let mut answer = String::new();
        BufReader::new(reader.take(MAX_ANSWER_BYTES)).read_line(&mut answer).await?;
        Ok(Some(serde_json::from_str(&answer)?))
    };
    tokio::time::timeout(PATIENCE, exchange).await.unwrap_or_else(|_| {
        Err(io::Error::new(io::ErrorKind::TimedOut, "the running taskspan does not answer"))
    })
}

/// The socket of a running process. The file goes when this is dropped.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    /// Listens in the directory of a store that this process holds.
    ///
    /// # Errors
    /// The directory takes no socket.
    pub fn bind(directory: &Path) -> io::Result<Server> {
        let path = directory.join(FILE);
        // We hold the store, so the process that listened here is gone.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Server { listener, path })
    }

    /// Answers until stopped, a few connections at a time: one that is silent holds up no other.
    pub async fn run(self, queue: Queue, stop: CancellationToken) {
        let mut served = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(_) = served.join_next() => continue,
                accepted = self.listener.accept(), if served.len() < MAX_CONNECTIONS => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let queue = queue.clone();
                    served.spawn(tokio::time::timeout(PATIENCE, async move {
                        if let Err(error) = serve(&queue, stream).await {
                            tracing::debug!(%error, "a question on the control socket was not answered");
                        }
                    }));
                }
                // Too many files are open, say. The one who asks waits, or asks again.
                Err(error) => {
                    tracing::debug!(%error, "the control socket takes no question for now");
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(AFTER_ERROR) => {}
                    }
                }
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A file that stays is found dead by the next who asks.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn serve(queue: &Queue, stream: UnixStream) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    BufReader::new(reader.take(MAX_QUESTION_BYTES)).read_line(&mut line).await?;
    let answer = match serde_json::from_str(&line) {
        Ok(question) => answer(queue, question).await,
        Err(error) => Answer::Failed(format!("not a question: {error}")),
    };
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    writer.write_all(&line).await
}
