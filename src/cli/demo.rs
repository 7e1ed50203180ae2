//! `taskspan demo`: runs the pipeline and a receiver in one process.
//!
//! ```text
//! bundled export ─▶ temporary directory ─▶ the real pipeline ─gRPC─▶ embedded receiver ─▶ tree
//! ```

#![expect(
    clippy::disallowed_methods,
    reason = "runs before the stages start, after they have ended, or on a blocking thread"
)]

pub(super) mod otlp_receiver;

use std::fs;
use std::path::Path;

use anyhow::Context;
use clap::Args;

use super::exit::Failure;
use super::preview::tree;
use super::session::Session;
use super::setup::Setup;
use super::{ConfigArgs, Exit, Global};
use crate::converter::view;
use crate::fs::carried::{EMITTED_AT, TRACE_ID};
use crate::pipeline::{Mode, observer};
use crate::pipeline::{RunControl, event::Tally};
use crate::receiver::METADATA_FILE;
use otlp_receiver::OtlpReceiver;

/// The sample export in `examples/sample-export`.
const SAMPLE: [(&str, &[u8]); 3] = [
    (
        "parcel-tracker-artifact-manifest.yaml",
        include_bytes!("../../examples/sample-export/parcel-tracker-artifact-manifest.yaml"),
    ),
    (
        "parcel-tracker-projectcontext.yaml",
        include_bytes!("../../examples/sample-export/parcel-tracker-projectcontext.yaml"),
    ),
    (METADATA_FILE, include_bytes!("../../examples/sample-export/onboarding-metadata.json")),
];

#[derive(Debug, Args)]
pub(crate) struct Demo {}

impl Demo {
    pub(crate) async fn run(self, global: &Global) -> Result<Exit, Failure> {
        let directory = tempfile::tempdir().context("no temporary directory")?;
        let output = directory.path().join("output");
        write_sample(&output)?;
        let receiver = OtlpReceiver::start().await.context("no loopback port")?;
        say(&format!(
            "1. An export was written to {}\n2. An OTLP receiver listens on {}\n",
            output.display(),
            receiver.endpoint()
        ))?;

        let args = ConfigArgs { endpoint: Some(receiver.endpoint()), ..ConfigArgs::default() };
        // The demo must behave the same everywhere, so it ignores OTEL_* variables.
        let setup = Setup::without_environment(&args, std::slice::from_ref(&output))?;
        setup.start_logging(global);
        let tally = Tally::default();
        let counting = tally.clone();
        let observe = observer(move |event| {
            counting.count(event);
            event.log();
        });
        Session::in_memory(setup.build()?)?.run(Mode::Once, observe, RunControl::default()).await?;

        let requests = receiver.stop();
        let roots = view::trees(&requests);
        let spans: usize = roots.iter().map(|root| root.walk().len()).sum();
        say(&format!("\n3. What arrived, {spans} spans in {} request(s):\n\n", requests.len()))?;
        for root in &roots {
            say(&tree::tree(root))?;
        }
        say(&written_back(&output.join(METADATA_FILE))?)?;
        say(NEXT)?;
        let counts = tally.counts();
        Ok(if counts.done == 1 && counts.spans == spans { Exit::Done } else { Exit::NotDelivered })
    }
}

const NEXT: &str = "
5. With an endpoint of yours, a local Tempo say, and an export of yours:

       taskspan preview DIR
       taskspan once DIR --endpoint http://localhost:4317

   Then ask Tempo what is to be built:

       { span.task.type = \"task\" && span.task.status = \"todo\" }
";

fn write_sample(output: &Path) -> anyhow::Result<()> {
    fs::create_dir(output).with_context(|| output.display().to_string())?;
    for (name, bytes) in SAMPLE {
        let path = output.join(name);
        fs::write(&path, bytes).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn written_back(path: &Path) -> anyhow::Result<String> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let lines = text.lines().filter(|line| line.contains(TRACE_ID) || line.contains(EMITTED_AT));
    let lines: String = lines.map(|line| format!("     {line}\n")).collect();
    Ok(format!("\n4. What was written back into {METADATA_FILE}:\n\n{lines}"))
}

fn say(text: &str) -> anyhow::Result<()> {
    Ok(super::print(text)?)
}
