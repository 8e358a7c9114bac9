//! Signals in, readiness out: the process's manners towards its supervisor.

use tokio::signal::unix::{SignalKind, signal};

/// Tells systemd (sd_notify(3)) that the process is ready; without systemd nothing happens.
pub(crate) fn ready() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let sent = std::os::unix::net::UnixDatagram::unbound().and_then(|s| s.send_to(b"READY=1", &path));
    if let Err(error) = sent {
        tracing::warn!(%error, "systemd wasn't told of readiness");
    }
}

/// Waits for SIGTERM or SIGINT, which are caught from this call on: it comes before anybody is told that the process is ready.
pub(crate) fn stop_signal() -> impl Future<Output = ()> {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    async {
        let (Ok(mut term), Ok(mut int)) = signals else { return std::future::pending().await };
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    }
}
