//! The command line, with one file per subcommand.
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
mod watchdog;

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand};

use crate::base::text::escape_styled;
use crate::base::units::HumanDuration;
use crate::config::LogEncoding;
use crate::exporter::config::Protocol;
pub use demo::otlp_receiver::OtlpReceiver;
pub use exit::Exit;
pub use preview::tree::tree;

/// Convert manifest exports to OTLP traces and write task_trace_id back
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
    /// Format of log lines on standard error; overrides the configuration
    #[arg(long, global = true, value_name = "text|json", value_parser = log_format)]
    log_format: Option<LogEncoding>,

    /// Increase log verbosity (-v debug, -vv trace); RUST_LOG overrides it
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run as a sidecar: watch directories and forward exports
    Run(run::Run),
    /// Deliver existing exports and exit (for CI)
    Once(once::Once),
    /// Run an export job and deliver the exports that it writes; exits with the job's code
    Exec(exec::Exec),
    /// Show what would be sent, without sending or writing anything
    Preview(preview::Preview),
    /// Add gate results to an export's trace
    Gate(gate::Gate),
    /// Add a task status update to an export's trace
    Task(task::Task),
    /// Show the delivery state of every export below a directory
    Status(status::Status),
    /// Inspect and manage the delivery queue
    Queue(queue::QueueCommand),
    /// Check the configuration without starting anything, and report every error
    Validate(validate::Validate),
    /// Print the JSON Schema of the configuration
    Schema(schema::Schema),
    /// Check whether a running taskspan is healthy
    Healthcheck(healthcheck::Healthcheck),
    /// Run the whole pipeline on a sample export, with a built-in OTLP receiver
    Demo(demo::Demo),
    /// Print the manual page in roff format
    Man(man::Man),
    /// Print a completion script for a shell
    Completions(completions::Completions),
}

/// The sources of the configuration. Flags override environment variables, which override files.
#[derive(Clone, Debug, Default, Args)]
struct ConfigArgs {
    /// Configuration file; may be repeated, later files override earlier ones
    #[arg(short, long = "config", value_name = "FILE")]
    config: Vec<PathBuf>,

    /// Set one value of the configuration, after all files; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// OTLP endpoint, such as http://localhost:4317
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,

    /// OTLP protocol; inferred from the port (4317, 4318) by default, else gRPC
    #[arg(long, value_name = "grpc|http/protobuf")]
    protocol: Option<Protocol>,

    /// Project id to use instead of the one in the export
    #[arg(long, value_name = "ID")]
    project_id: Option<String>,

    /// Directory of the durable queue [default: the configured one, else $XDG_STATE_HOME/taskspan]
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

/// A time limit as flags take it.
type Timeout = HumanDuration;

/// Runs a command, with the runtime that it needs, and returns its exit code. Writes all log lines.
pub fn start(cli: Cli) -> Exit {
    let exit = match cli.command {
        // A job starts before any thread does.
        Command::Exec(command) => command.run(&cli.global),
        command => on_new_runtime(Cli { command, global: cli.global }),
    };
    flush();
    exit
}

fn on_new_runtime(cli: Cli) -> Exit {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            say(&format!("taskspan: the runtime cannot start: {error}"));
            return Exit::NotDelivered;
        }
    };
    let exit = runtime.block_on(run(cli));
    flush();
    // A read that blocks on a dead mount must not keep a stopped program alive.
    runtime.shutdown_background();
    exit
}

/// Runs a command on the caller's runtime and returns its exit code.
pub async fn run(cli: Cli) -> Exit {
    let Cli { command, global } = cli;
    let result = match command {
        Command::Run(command) => command.run(&global).await,
        Command::Once(command) => command.run(&global).await,
        // A job needs a thread that nothing else blocks.
        Command::Exec(command) => {
            let job = tokio::task::spawn_blocking(move || command.run(&global));
            job.await.map_err(|error| anyhow::Error::from(error).into())
        }
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

/// Writes to standard output. A reader that closed the pipe is not an error.
fn print(text: &str) -> std::io::Result<()> {
    use std::io::Write;
    let mut stdout = anstream::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Writes a line to standard error, with colours only on a terminal that supports them. A failure,
/// for example on a full disk, is ignored.
fn say(text: &str) {
    let text = escape_styled(text, true);
    let line = match is_rich(&std::io::stderr()) {
        true => format!("{text}\n"),
        false => format!("{}\n", anstream::adapter::strip_str(&text)),
    };
    log_writer::write(line.into_bytes());
}

/// Time limit for writing the last lines to standard error.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Waits until all log lines are written, for at most one second.
fn flush() {
    log_writer::flush(FLUSH_TIMEOUT);
}

/// Whether `stream` is a terminal on which colours and moving lines are wanted.
fn is_rich(stream: &impl std::io::IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
