//! SIGINT and SIGTERM: the first one asks to stop, the second does not ask.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What a shell reports of a process that SIGINT ended.
const EXIT_CODE: i32 = 130;

/// Fires at the first signal. At the second, the process ends.
pub fn stop_requests() -> std::io::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = CancellationToken::new();
    let fired = stop.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => (),
                _ = terminate.recv() => (),
            }
            if fired.is_cancelled() {
                // What is durable stays so: that is what recovery is for.
                std::process::exit(EXIT_CODE);
            }
            fired.cancel();
        }
    });
    Ok(stop)
}
