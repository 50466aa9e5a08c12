//! One capture at a time: lent to a connection, and over with it, in whatever way that ends.
//!
//! The packets themselves never come here: the command reads them from the kernel. So the daemon needs no more system calls, and
//! a capture takes nothing from it.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::{
    kernel::{CaptureSwitch, Kernel, KernelError},
    protocol::{CaptureMaps, Response},
};

/// The switch, and who has it.
pub(crate) struct Captures {
    switch: Mutex<CaptureSwitch>,
    maps: CaptureMaps,
    holder: Mutex<Option<i32>>,
}

impl Captures {
    /// Nobody captures yet: the switch is turned off, whoever turned it on before.
    pub(crate) fn open(kernel: &Kernel) -> Result<Self, KernelError> {
        let switch = kernel.capture_switch()?;
        Ok(Captures { maps: switch.maps(), switch: Mutex::new(switch), holder: Mutex::new(None) })
    }

    /// Turns it on for a process, unless another one has it.
    pub(crate) fn lend(self: &Arc<Self>, process: i32, bytes: u32) -> Result<Loan, Response> {
        let mut holder = self.holder.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(holder) = *holder {
            let message = format!("process {holder} captures already, and only one can; wait for it, or end it");
            return Err(Response::Failed(message));
        }
        if bytes == 0 {
            return Err(Response::Invalid("a capture of no bytes is none".into()));
        }
        self.set(bytes).map_err(|error| Response::Failed(error.to_string()))?;
        *holder = Some(process);
        tracing::info!("process {process} captures packets of hits, up to {bytes} bytes of each");
        Ok(Loan { captures: Arc::clone(self), process })
    }

    fn set(&self, bytes: u32) -> Result<(), KernelError> {
        self.switch.lock().unwrap_or_else(PoisonError::into_inner).set(bytes)
    }
}

/// Turns it off when dropped.
pub(crate) struct Loan {
    captures: Arc<Captures>,
    process: i32,
}

impl Loan {
    /// What the command needs to read the packets.
    pub(crate) fn response(&self) -> Response {
        Response::Capture(self.captures.maps)
    }

    /// Holds on until the peer has closed its end.
    pub(crate) async fn until_closed(self, mut peer: impl AsyncRead + Unpin) {
        // A byte at a time, since it has nothing to say.
        let mut byte = [0];
        while matches!(peer.read(&mut byte).await, Ok(1..)) {}
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if let Err(error) = self.captures.set(0) {
            tracing::error!(
                "ending a capture: {error}; hits cost more than they must until the next one, or the next start"
            );
        }
        *self.captures.holder.lock().unwrap_or_else(PoisonError::into_inner) = None;
        tracing::info!("the capture of process {} has ended", self.process);
    }
}
