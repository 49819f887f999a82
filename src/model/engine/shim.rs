//! What libtorch has and `tch` does not bind: attention by the ends of sequences, host memory that the device can read, the
//! allocator's books, marks in the device's stream. The other side is `shim.cpp`.

use std::ffi::{c_char, c_int, c_void};

use tch::{TchError, Tensor};

use super::memory::OwnMemory;

type Outcome<T> = Result<T, TchError>;

unsafe extern "C" {
    fn nr_varlen_attention(
        kind: c_int,
        query: *const c_void,
        key: *const c_void,
        value: *const c_void,
        query_ends: *const c_void,
        key_ends: *const c_void,
        query_max: i64,
        key_max: i64,
        out: *mut *mut c_void,
        text: *mut c_char,
        size: usize,
    ) -> c_int;
    fn nr_host_integers(count: i64, pinned: c_int, out: *mut *mut c_void, text: *mut c_char, size: usize) -> c_int;
    fn nr_empty_cache(text: *mut c_char, size: usize) -> c_int;
    fn nr_allocator_bytes(index: c_int, bytes: *mut i64, text: *mut c_char, size: usize) -> c_int;
    fn nr_mark(index: c_int, out: *mut *mut c_void, text: *mut c_char, size: usize) -> c_int;
    fn nr_wait(event: *const c_void, text: *mut c_char, size: usize) -> c_int;
    fn nr_forget_mark(event: *mut c_void);
}

/// Room for what an exception says; more is cut.
const TEXT_BYTES: usize = 2048;

/// Makes a call that may fail with a text.
fn guarded(call: impl FnOnce(*mut c_char, usize) -> c_int) -> Outcome<()> {
    let mut text = [0u8; TEXT_BYTES];
    if call(text.as_mut_ptr().cast(), text.len()) == 0 {
        return Ok(());
    }
    let length = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
    Err(TchError::Torch(String::from_utf8_lossy(&text[..length]).into_owned()))
}

/// Makes a call that may fail with a text and gives a new tensor otherwise.
fn tensor_from(call: impl FnOnce(*mut *mut c_void, *mut c_char, usize) -> c_int) -> Outcome<Tensor> {
    let mut out = std::ptr::null_mut();
    guarded(|text, size| call(&mut out, text, size))?;
    // SAFETY: the call succeeded, so `out` is an `at::Tensor` from `new` that nobody else holds: what `tch` keeps and deletes.
    Ok(unsafe { Tensor::from_ptr(out.cast()) })
}

fn pointer(tensor: &Tensor) -> *const c_void {
    tensor.as_ptr().cast()
}

/// Kernels of libtorch's CUDA half for sequences that lie one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VarlenKernel {
    /// FlashAttention 2: fp16 and bf16.
    Flash,
    /// The memory-efficient kernels: any precision.
    Efficient,
}

/// Sequences one behind the other, for attention of each to itself. libtorch refuses anything else than is said here.
pub(super) struct Varlen<'a> {
    /// `[rows, heads, size]`, the last dimension without gaps. Rows beyond the last sequence are not looked at.
    pub(super) query: &'a Tensor,
    /// `[rows, heads, size]`, likewise.
    pub(super) key: &'a Tensor,
    /// Of the key's shape.
    pub(super) value: &'a Tensor,
    /// Where each sequence's queries end, a 0 before the first: int32 `[sequences + 1]`, without gaps, on the same device.
    pub(super) query_ends: &'a Tensor,
    /// The same for keys and values.
    pub(super) key_ends: &'a Tensor,
    /// The most queries of a sequence.
    pub(super) query_max: i64,
    /// The most keys of a sequence.
    pub(super) key_max: i64,
}

/// `[rows, heads, size]`, of the queries' rows; those beyond the last sequence hold anything.
pub(super) fn varlen_attention(kernel: VarlenKernel, of: &Varlen) -> Outcome<Tensor> {
    let kind = match kernel {
        VarlenKernel::Flash => 0,
        VarlenKernel::Efficient => 1,
    };
    // SAFETY: all are tensors that live through the call, which keeps none of them.
    tensor_from(|out, text, size| unsafe {
        nr_varlen_attention(
            kind,
            pointer(of.query),
            pointer(of.key),
            pointer(of.value),
            pointer(of.query_ends),
            pointer(of.key_ends),
            of.query_max,
            of.key_max,
            out,
            text,
            size,
        )
    })
}

/// `values` as an int32 tensor on the host; `pinned`: where the device's copy engine reads it while others compute.
pub(super) fn host_integers(values: &[i32], pinned: bool) -> Outcome<Tensor> {
    let count = values.len();
    // SAFETY: the call takes numbers and writes one pointer.
    let tensor =
        tensor_from(|out, text, size| unsafe { nr_host_integers(count as i64, pinned.into(), out, text, size) })?;
    // SAFETY: a fresh tensor of `count` 4-byte integers on the host, without gaps, that nobody else knows of.
    unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), tensor.data_ptr().cast::<i32>(), count) };
    Ok(tensor)
}

/// Gives cached memory of CUDA devices back to the driver.
pub(super) fn empty_cache() -> Outcome<()> {
    // SAFETY: no arguments but the room for a text.
    guarded(|text, size| unsafe { nr_empty_cache(text, size) })
}

/// What the allocator of this process knows of a CUDA device.
pub(super) fn allocator_memory(index: usize) -> Outcome<OwnMemory> {
    let mut bytes = [0i64; 3];
    // SAFETY: the call writes three numbers.
    guarded(|text, size| unsafe { nr_allocator_bytes(index as c_int, bytes.as_mut_ptr(), text, size) })?;
    let [allocated_bytes, allocated_bytes_max, reserved_bytes] = bytes.map(|bytes| bytes.max(0) as u64);
    Ok(OwnMemory {
        allocated_bytes,
        allocated_bytes_max,
        reserved_bytes,
    })
}

/// A mark in the stream of a CUDA device: what was begun before it.
#[derive(Debug)]
pub(super) struct Mark(*mut c_void);

impl Mark {
    /// Marks all that this thread has begun on the device.
    pub(super) fn now(index: usize) -> Outcome<Mark> {
        let mut event = std::ptr::null_mut();
        // SAFETY: the call writes one pointer.
        guarded(|text, size| unsafe { nr_mark(index as c_int, &mut event, text, size) })?;
        Ok(Mark(event))
    }

    /// Waits until all that is done.
    pub(super) fn wait(&self) -> Outcome<()> {
        // SAFETY: the event lives as long as `self`.
        guarded(|text, size| unsafe { nr_wait(self.0, text, size) })
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        // SAFETY: made by `nr_mark`, and not used again.
        unsafe { nr_forget_mark(self.0) }
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn a_refusal_of_libtorch_is_an_error_with_its_text() {
        let tensor = Tensor::zeros([3, 2, 8], (Kind::Float, Device::Cpu));
        let ends = host_integers(&[0, 3], false).unwrap();
        let of = Varlen {
            query: &tensor,
            key: &tensor,
            value: &tensor,
            query_ends: &ends,
            key_ends: &ends,
            query_max: 3,
            key_max: 3,
        };
        for (kernel, name) in [
            (VarlenKernel::Flash, "_flash_attention_forward"),
            (VarlenKernel::Efficient, "_efficient_attention_forward"),
        ] {
            // There are none for a CPU.
            let error = varlen_attention(kernel, &of).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("CPU"), "{error}");
        }
    }

    #[test]
    fn integers_arrive_as_they_are() {
        let values = [3, -1, i32::MAX];
        let tensor = host_integers(&values, false).unwrap();
        assert_eq!((tensor.kind(), tensor.size()), (Kind::Int, vec![3]));
        assert_eq!(Vec::<i32>::try_from(&tensor).unwrap(), values);
        assert_eq!(host_integers(&[], false).unwrap().size(), [0]);
    }

    #[test]
    fn without_a_device_its_books_are_an_error_and_no_crash() {
        assert!(allocator_memory(0).is_err());
        assert!(empty_cache().is_err());
        assert!(Mark::now(0).is_err());
    }
}
