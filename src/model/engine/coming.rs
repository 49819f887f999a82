//! Logits that the device may still be computing.

use tch::{Device, Kind, TchError, Tensor};

use super::shim::Mark;

/// On its way to the host. On a GPU the copy is behind the computing in the device's stream, and nobody waits for it before
/// [`Coming::take`].
pub(super) struct Coming {
    logits: Tensor,
    /// `None`: they are there.
    mark: Option<Mark>,
}

impl Coming {
    /// `logits`: fp32, one row, on `device`.
    pub(super) fn new(logits: &Tensor, device: Device) -> Result<Coming, TchError> {
        // Without blocking, libtorch copies from CUDA into pinned memory. Elsewhere there would be no mark to wait for.
        let logits = logits.f_to_device_(Device::Cpu, Kind::Float, device.is_cuda(), false)?;
        let mark = match device {
            Device::Cuda(index) => Some(Mark::now(index)?),
            _ => None,
        };
        Ok(Coming { logits, mark })
    }

    /// Waits for the device.
    pub(super) fn take(self) -> Result<Vec<f32>, TchError> {
        if let Some(mark) = &self.mark {
            mark.wait()?;
        }
        let mut host = vec![0f32; self.logits.numel()];
        self.logits.f_copy_data(&mut host, self.logits.numel())?;
        Ok(host)
    }
}
