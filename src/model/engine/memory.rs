//! Memory of a CUDA device, as its runtime tells it.

use std::ffi::c_int;

use super::shim;

/// Memory of a device, whoever uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    /// Bytes taken, by this process and by others.
    pub used_bytes: u64,
    /// Bytes there are.
    pub total_bytes: u64,
    /// What libtorch's allocator in this process knows of it.
    pub own: OwnMemory,
}

/// This process's part of a device's memory, as libtorch's allocator has it; beside it there are the CUDA context and the
/// libraries' own buffers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnMemory {
    /// Taken by tensors now.
    pub allocated_bytes: u64,
    /// Taken by tensors at most, since the start.
    pub allocated_bytes_max: u64,
    /// Held, for tensors or for later.
    pub reserved_bytes: u64,
}

/// `cudaError_t cudaSetDevice(int device)`.
type SetDevice = unsafe extern "C" fn(c_int) -> c_int;
/// `cudaError_t cudaMemGetInfo(size_t *free, size_t *total)`.
type MemGetInfo = unsafe extern "C" fn(*mut usize, *mut usize) -> c_int;

/// Asks the CUDA runtime that libtorch's CUDA half has brought along. For the thread that owns the device: another one
/// would make CUDA set up that thread, and wait where the device hangs.
#[derive(Debug)]
pub(super) struct MemoryMeter {
    index: c_int,
    set_device: SetDevice,
    mem_get_info: MemGetInfo,
}

impl MemoryMeter {
    /// `None` where no CUDA runtime is loaded.
    #[cfg(unix)]
    pub(super) fn find(index: usize) -> Option<MemoryMeter> {
        // libtorch's CUDA half was opened for all symbols, so that the runtime's are among those of this process.
        let process = libloading::os::unix::Library::this();
        // SAFETY: these are the types that CUDA's documentation gives, the same since its first versions.
        let (set_device, mem_get_info) = unsafe {
            (
                *process.get::<SetDevice>(b"cudaSetDevice\0").ok()?,
                *process.get::<MemGetInfo>(b"cudaMemGetInfo\0").ok()?,
            )
        };
        Some(MemoryMeter {
            index: c_int::try_from(index).ok()?,
            set_device,
            mem_get_info,
        })
    }

    /// CUDA is loaded at run time on Unix only.
    #[cfg(not(unix))]
    pub(super) fn find(_: usize) -> Option<MemoryMeter> {
        None
    }

    /// `None` where the runtime does not say.
    pub(super) fn read(&self) -> Option<DeviceMemory> {
        let (mut free, mut total) = (0_usize, 0_usize);
        // SAFETY: the libraries are never closed; both pointers are to local variables that outlive the call.
        let failed = unsafe { (self.set_device)(self.index) != 0 || (self.mem_get_info)(&mut free, &mut total) != 0 };
        (!failed && total > 0).then(|| DeviceMemory {
            used_bytes: total.saturating_sub(free) as u64,
            total_bytes: total as u64,
            own: shim::allocator_memory(self.index as usize).unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    unsafe extern "C" fn well(_: c_int) -> c_int {
        0
    }

    unsafe extern "C" fn badly(_: c_int) -> c_int {
        2
    }

    unsafe extern "C" fn told(free: *mut usize, total: *mut usize) -> c_int {
        // SAFETY: `read` passes pointers to its own variables.
        unsafe {
            *free = 1000;
            *total = 5000;
        }
        0
    }

    fn meter(set_device: SetDevice) -> MemoryMeter {
        MemoryMeter {
            index: 0,
            set_device,
            mem_get_info: told,
        }
    }

    #[test]
    fn used_is_what_is_not_free() {
        let memory = DeviceMemory {
            used_bytes: 4000,
            total_bytes: 5000,
            // No allocator for a device that is not there.
            own: OwnMemory::default(),
        };
        assert_eq!(meter(well).read(), Some(memory));
        assert_eq!(meter(badly).read(), None, "an error of the runtime is no reading");
    }

    #[test]
    fn without_a_device_there_is_no_reading() {
        // A libtorch for the CPU may be linked to the CUDA runtime too: an index that no machine has gives nothing then.
        let reading = MemoryMeter::find(1 << 20).and_then(|meter| meter.read());
        assert_eq!(reading, None);
    }
}
