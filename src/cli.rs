//! The command line: one file a subcommand.
//!
//! ```text
//! arguments ─▶ setup (files, flags, environment → Config) ─▶ run │ once │ preview │ …
//!                                                             └─▶ exit code
//! ```

mod addition;
mod completions;
mod demo;
mod exec;
mod exit;
mod gate;
mod healthcheck;
mod job;
mod log_writer;
mod logging;
mod man;
mod once;
mod preview;
mod progress;
mod queue;
mod report;
mod run;
mod schema;
mod session;
mod setup;
mod signals;
mod status;
mod summary;
mod task;
mod validate;

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand};

use crate::base::units::HumanDuration;
use crate::config::LogEncoding;
use crate::exporter::config::Protocol;
pub use demo::otlp_receiver::OtlpReceiver;
pub use exit::Exit;
pub use preview::tree::tree;

/// Turns manifest exports into OTLP traces and writes task_trace_id back.
#[derive(Debug, Parser)]
#[command(name = "taskspan", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,

    #[command(flatten)]
    global: Global,
}

#[derive(Clone, Debug, Args)]
struct Global {
    /// How log lines look on standard error; text unless the configuration says otherwise
    #[arg(long, global = true, value_name = "text|json", value_parser = log_format)]
    log_format: Option<LogEncoding>,

    /// More log lines: -v for debug, -vv for trace; RUST_LOG beats it
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch and forward until stopped: the sidecar
    Run(run::Run),
    /// Process what is there, wait until it is delivered, and end: a CI step
    Once(once::Once),
    /// Run an export job and deliver what it writes; exits with the job's own code
    Exec(exec::Exec),
    /// Show what would be sent; send nothing, write nothing
    Preview(preview::Preview),
    /// Add the results of gates to the trace of an export
    Gate(gate::Gate),
    /// Add how far a task is to the trace of an export
    Task(task::Task),
    /// Every export below a directory: how far it is, and why
    Status(status::Status),
    /// Look into what is held and what was refused
    Queue(queue::QueueCommand),
    /// Build everything, start nothing, print every fault
    Validate(validate::Validate),
    /// Print the JSON Schema of the configuration
    Schema(schema::Schema),
    /// Ask a running taskspan whether it is well
    Healthcheck(healthcheck::Healthcheck),
    /// The whole pipeline on a sample export, against an embedded OTLP receiver
    Demo(demo::Demo),
    /// Print the manual page, in the format of man
    Man(man::Man),
    /// Print a completion script for a shell
    Completions(completions::Completions),
}

/// Where the configuration comes from. Flags beat environment beats file.
#[derive(Clone, Debug, Default, Args)]
struct ConfigArgs {
    /// A configuration file; may be repeated, the later one wins
    #[arg(short, long = "config", value_name = "FILE")]
    config: Vec<PathBuf>,

    /// One value of the configuration, after all files; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// OTLP endpoint, such as http://localhost:4317
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,

    /// OTLP protocol; the one of the port (4317, 4318) or gRPC unless given
    #[arg(long, value_name = "grpc|http/protobuf")]
    protocol: Option<Protocol>,

    /// Project id to use instead of the export's own
    #[arg(long, value_name = "ID")]
    project_id: Option<String>,

    /// Directory of the durable queue; $XDG_STATE_HOME/taskspan unless given or configured
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

fn log_format(text: &str) -> Result<LogEncoding, String> {
    match text {
        "text" => Ok(LogEncoding::Text),
        "json" => Ok(LogEncoding::Json),
        _ => Err("has to be text or json".to_owned()),
    }
}

/// A limit in time as the flags take it.
type Timeout = HumanDuration;

/// Runs a command to its end.
pub async fn run(cli: Cli) -> Exit {
    let Cli { command, global } = cli;
    let result = match command {
        Command::Run(command) => command.run(&global).await,
        Command::Once(command) => command.run(&global).await,
        Command::Exec(command) => command.run(&global).await,
        Command::Preview(command) => command.run(&global).await,
        Command::Gate(command) => command.run(&global).await,
        Command::Task(command) => command.run(&global).await,
        Command::Status(command) => command.run(&global).await,
        Command::Queue(command) => command.run().await,
        Command::Validate(command) => command.run().await,
        Command::Schema(command) => command.run(),
        Command::Healthcheck(command) => command.run().await,
        Command::Demo(command) => command.run(&global).await,
        Command::Man(command) => command.run(),
        Command::Completions(command) => command.run(),
    };
    result.unwrap_or_else(|failure| failure.report())
}

/// Writes to standard output. A reader that has seen enough is no error.
fn print(text: &str) -> std::io::Result<()> {
    use std::io::Write;
    let mut stdout = anstream::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Writes a line to standard error, without colours where they are not wanted. A failure, for example on a full
/// disk, is ignored.
fn say(text: &str) {
    let line = match is_rich(&std::io::stderr()) {
        true => format!("{text}\n"),
        false => format!("{}\n", anstream::adapter::strip_str(text)),
    };
    log_writer::write(line.into_bytes());
}

/// How long the end of the program waits for the last lines on standard error.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Waits until everything that was logged is written, for a second at most.
pub fn flush() {
    log_writer::flush(FLUSH_TIMEOUT);
}

/// Whether a person looks on who wants colours and moving lines.
fn is_rich(stream: &impl std::io::IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
