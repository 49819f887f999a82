//! Logits that the device may still be computing.

use tch::{Device, Kind, TchError, Tensor};

use super::shim::Mark;

/// On its way to the host. On a GPU the copy is behind the computing in the device's stream, and nobody waits for it before
/// [`Coming::take`].
pub(super) struct Coming {
    logits: Tensor,
    /// What the device copies from.
    given: Tensor,
    /// `None`: they are there.
    mark: Option<Mark>,
}

impl Coming {
    /// `logits`: fp32, one row, on `device`. `given`: the host's memory that they were computed from.
    pub(super) fn new(logits: &Tensor, given: Tensor, device: Device) -> Result<Coming, TchError> {
        let copied = || {
            // Without blocking, libtorch copies from CUDA into pinned memory. Elsewhere there would be no mark to wait for.
            let logits = logits.f_to_device_(Device::Cpu, Kind::Float, device.is_cuda(), false)?;
            let mark = match device {
                Device::Cuda(index) => Some(Mark::now(index)?),
                _ => None,
            };
            Ok((logits, mark))
        };
        match copied() {
            Ok((logits, mark)) => Ok(Coming { logits, given, mark }),
            Err(error) => {
                leave(given);
                Err(error)
            }
        }
    }

    /// Waits for the device.
    pub(super) fn take(self) -> Result<Vec<f32>, TchError> {
        if let Some(Err(error)) = self.mark.as_ref().map(Mark::wait) {
            // The device is lost.
            leave(self.logits);
            leave(self.given);
            return Err(error);
        }
        let mut host = vec![0f32; self.logits.numel()];
        self.logits.f_copy_data(&mut host, self.logits.numel())?;
        Ok(host)
    }
}

/// Leaves memory that a lost device was reading or writing as it is. Given back, libtorch would ask the device when it is through
/// with it, and the failure of that, in a destructor, would end the process before anybody was answered. It ends soon anyway.
pub(super) fn leave(memory: Tensor) {
    std::mem::forget(memory);
}
