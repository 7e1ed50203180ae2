//! SIGINT and SIGTERM: the first asks to stop, the second does not ask.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that the first signal cancels. A second one ends the program at once, with the code a
/// shell gives to a program that a signal killed.
///
/// # Errors
/// The system gives no signal handlers.
pub fn stop_on_signal() -> std::io::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        let name = either(&mut interrupt, &mut terminate).await.0;
        tracing::info!("{name}: finishing what is in flight; a second signal ends at once");
        token.cancel();
        let (name, number) = either(&mut interrupt, &mut terminate).await;
        tracing::warn!("{name} again: ending at once");
        std::process::exit(128 + number);
    });
    Ok(stop)
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) -> (&'static str, i32) {
    tokio::select! {
        _ = interrupt.recv() => ("SIGINT", SignalKind::interrupt().as_raw_value()),
        _ = terminate.recv() => ("SIGTERM", SignalKind::terminate().as_raw_value()),
    }
}
