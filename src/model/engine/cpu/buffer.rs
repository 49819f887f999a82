//! Memory for vectors and tiles: aligned to a cache line, and zeroed.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// A cache line, and the widest load.
const ALIGN: usize = 64;
/// Plain numbers that any bytes are a value of.
///
/// # Safety
/// All bit patterns are values, zero too, and the type is not aligned to more than a cache line.
pub(super) unsafe trait Plain: Copy + Send + Sync + 'static {}
// SAFETY: plain numbers.
unsafe impl Plain for f32 {}
// SAFETY: as above.
unsafe impl Plain for i32 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for u16 {}
// SAFETY: as above.
unsafe impl Plain for u8 {}

/// A zeroed, aligned array. It grows by [`Buffer::reserve`] and never shrinks, so its owner bounds what it asks for.
pub(super) struct Buffer<T: Plain> {
    start: NonNull<T>,
    len: usize,
}

// SAFETY: it owns plain numbers.
unsafe impl<T: Plain> Send for Buffer<T> {}
// SAFETY: as above; writing asks for `&mut` or for the raw pointer.
unsafe impl<T: Plain> Sync for Buffer<T> {}

impl<T: Plain> Buffer<T> {
    pub(super) fn empty() -> Buffer<T> {
        Buffer {
            start: NonNull::dangling(),
            len: 0,
        }
    }

    /// `len` zeros.
    pub(super) fn zeros(len: usize) -> Buffer<T> {
        if len == 0 {
            return Buffer::empty();
        }
        let layout = Self::layout(len);
        // SAFETY: the size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else {
            handle_alloc_error(layout)
        };
        Buffer {
            start: start.cast(),
            len,
        }
    }

    fn layout(len: usize) -> Layout {
        // As a vector would: a size beyond the address space cannot be served.
        Layout::from_size_align(len * size_of::<T>(), ALIGN).expect("a size that fits the address space")
    }

    /// At least `len` elements; what was there is lost if it has to grow.
    pub(super) fn reserve(&mut self, len: usize) {
        if self.len < len {
            *self = Buffer::empty();
            *self = Buffer::zeros(len);
        }
    }

    /// For reading.
    pub(super) fn slice(&self) -> &[T] {
        // SAFETY: `len` elements that were zeroed at the start.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// For writing.
    pub(super) fn slice_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and nobody else has it.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// For threads that write to different rows.
    pub(super) fn pointer(&self) -> *mut T {
        self.start.as_ptr()
    }
}

impl<T: Plain> Drop for Buffer<T> {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: allocated with this very layout.
            unsafe { dealloc(self.start.as_ptr().cast(), Self::layout(self.len)) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_aligned_zeroed_and_grows() {
        let mut buffer = Buffer::<f32>::zeros(3);
        assert_eq!(buffer.slice(), [0.0; 3]);
        buffer.slice_mut()[2] = 1.0;
        buffer.reserve(2);
        assert_eq!(buffer.slice()[2], 1.0);
        buffer.reserve(1 << 20);
        assert_eq!((buffer.slice().len(), buffer.slice()[2]), (1 << 20, 0.0));
        assert_eq!(buffer.pointer() as usize % ALIGN, 0);
        assert_eq!(Buffer::<u16>::zeros(5).pointer() as usize % ALIGN, 0);
        assert!(Buffer::<u8>::empty().slice().is_empty());
    }
}
