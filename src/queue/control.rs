//! Lets `taskspan queue` use the queue of a running taskspan, over a Unix socket next to the store.
//!
//! ```text
//! taskspan queue … ─one line of JSON─▶ control.sock ─▶ Queue ─one line of JSON─▶ …
//! ```
//!
//! Only one process can open the store. If no process answers on the socket, the command opens it.

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
/// The name of the socket while it is made. Short, because paths of sockets are limited.
const MADE: &str = "s";

/// Size limit of a question, in bytes.
const MAX_QUESTION_BYTES: u64 = 64 * 1024;
/// Size limit of an answer, in bytes: a list of very many entries.
const MAX_ANSWER_BYTES: u64 = 256 << 20;
/// How long exporters may take to return an entry that an operator drops.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(2);
/// Time limit for one question and its answer.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Time limit for a client to send its question.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(2);
const MAX_CONNECTIONS: usize = 32;
/// Pause after an error while accepting a connection.
const AFTER_ERROR: Duration = Duration::from_secs(1);

/// An operator command for a queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub(crate) enum Question {
    List,
    Retry {
        ids: Vec<u64>,
    },
    Drop {
        ids: Vec<u64>,
        force: bool,
    },
    Verify,
    /// Which of these traces were delivered recently or have a tombstone.
    AreDone {
        trace_ids: Vec<TraceId>,
    },
}

/// The answer to a [`Question`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Listed(Vec<Listed>),
    /// The ids for which the command succeeded.
    Done(Vec<u64>),
    Verified(Verified),
    AreDone(Vec<TraceId>),
    Failed(String),
}

/// Executes a question on a queue that this process has opened.
pub(crate) async fn answer(queue: &Queue, question: Question) -> Answer {
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
            let until = Instant::now() + HANDOVER_TIMEOUT;
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

/// Sends a question to the process that holds the store in this directory. `None` if there is none.
///
/// # Errors
/// Returns an error if the process does not answer within 30 s, or its answer is invalid. The
/// command may have been executed.
pub(crate) async fn ask(directory: &Path, question: &Question) -> io::Result<Option<Answer>> {
    let stream = match UnixStream::connect(directory.join(FILE)).await {
        Ok(stream) => stream,
        // There is no socket, or a killed process left it.
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
    tokio::time::timeout(EXCHANGE_TIMEOUT, exchange).await.unwrap_or_else(|_| {
        Err(io::Error::new(io::ErrorKind::TimedOut, "the running taskspan does not answer"))
    })
}

/// The socket of a running process. Dropping this removes the file.
#[derive(Debug)]
pub(crate) struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    /// Listens in the directory of a store that this process holds.
    ///
    /// # Errors
    /// Returns an error if the socket cannot be created.
    pub(crate) fn bind(directory: &Path) -> io::Result<Server> {
        let path = directory.join(FILE);
        // The socket is made where only this user has access, and gets its name when it is private.
        let private = tempfile::Builder::new().prefix(".").rand_bytes(3).tempdir_in(directory)?;
        let made = private.path().join(MADE);
        let listener = UnixListener::bind(&made)?;
        std::fs::set_permissions(&made, std::fs::Permissions::from_mode(0o600))?;
        // This process holds the store, so the process that listened here is gone.
        std::fs::rename(&made, &path)?;
        Ok(Server { listener, path })
    }

    /// Answers questions until `stop` is cancelled. Serves several connections at a time, so that a
    /// silent client does not block others.
    pub(crate) async fn run(self, queue: Queue, stop: CancellationToken) {
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
                    served.spawn(tokio::time::timeout(EXCHANGE_TIMEOUT, async move {
                        if let Err(error) = serve(&queue, stream).await {
                            tracing::debug!(%error, "a question on the control socket was not answered");
                        }
                    }));
                }
                // For example, too many files are open. The client waits or retries.
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
        // A stale file is harmless: clients cannot connect to it.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn serve(queue: &Queue, stream: UnixStream) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    let mut reader = BufReader::new(reader.take(MAX_QUESTION_BYTES));
    tokio::time::timeout(QUESTION_TIMEOUT, reader.read_line(&mut line)).await??;
    let answer = match serde_json::from_str(&line) {
        Ok(question) => answer(queue, question).await,
        Err(error) => Answer::Failed(format!("not a question: {error}")),
    };
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    writer.write_all(&line).await
}
