//! Calls of like size, which say something about each other. Pure.
//!
//! That a list of a thousand candidates was not answered in time says nothing about lists of two dozen: what is learned from calls
//! (the circuit, the delay before a hedge) is learned for each class by itself. So the lists of one caller of a shared client, such
//! as the gateway, change nothing for callers with lists of another size.

/// How many classes there are: up to 4 KiB of text, up to 16 KiB, and so on, each four times the one before.
pub(super) const SIZE_CLASSES: usize = 8;

/// Bits of the largest size in the first class.
const FIRST_CLASS_BITS: u32 = 12;

/// The class of a call whose pairs hold so many bytes of text, from 0 to [`SIZE_CLASSES`] − 1.
pub(super) fn size_class(pair_bytes: usize) -> usize {
    let bits = usize::BITS - pair_bytes.saturating_sub(1).leading_zeros();
    let class = bits.saturating_sub(FIRST_CLASS_BITS).div_ceil(2) as usize;
    class.min(SIZE_CLASSES - 1)
}

/// Bytes of text in the pairs of a query with these candidates: the query stands in each of them.
pub(super) fn pair_bytes<'a>(query: &str, texts: impl Iterator<Item = &'a str>) -> usize {
    texts
        .map(|text| query.len().saturating_add(text.len()))
        .fold(0, usize::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_is_four_times_the_one_before() {
        assert_eq!([0, 1, 4096].map(size_class), [0; 3]);
        for class in 1..SIZE_CLASSES - 1 {
            let most = 4096 << (2 * class);
            assert_eq!((size_class(most / 4 + 1), size_class(most)), (class, class), "{most}");
        }
        assert_eq!(size_class(usize::MAX), SIZE_CLASSES - 1);
        assert_eq!(pair_bytes("two", ["a", "four"].into_iter()), 11);
    }
}
