//! How `make guard` (benches/guard) judges counts of instructions, and that what it judges by is there.

#[path = "../benches/guard/compare.rs"]
mod compare;

use compare::{Bound, Counts, Figures, Origin, Verdict, compare as hold, fails};

fn origin(rustc: &str, arch: &str, cpu: &str) -> Origin {
    Origin {
        rustc: rustc.to_owned(),
        arch: arch.to_owned(),
        cpu: cpu.to_owned(),
        valgrind: "3.19.0".to_owned(),
    }
}

fn counts(counts: &[(&str, u64)]) -> Counts {
    counts.iter().map(|&(path, count)| (path.to_owned(), count)).collect()
}

/// The verdict on one path.
fn verdict(stored: u64, now: u64, bound: Bound) -> Verdict {
    let lines = hold(&counts(&[("a", stored)]), &counts(&[("a", now)]), bound);
    assert_eq!(lines.len(), 1);
    lines[0].verdict
}

#[test]
fn fifteen_percent_more_is_kept_and_anything_beyond_is_worse() {
    assert_eq!(verdict(1000, 1000, Bound::Same), Verdict::Kept);
    assert_eq!(verdict(1000, 1150, Bound::Same), Verdict::Kept);
    assert_eq!(verdict(1000, 1151, Bound::Same), Verdict::Worse);
    // Far from any overflow.
    assert_eq!(verdict(u64::MAX / 2, u64::MAX, Bound::Same), Verdict::Worse);
}

#[test]
fn much_less_is_told_and_does_not_fail() {
    assert_eq!(verdict(1150, 1000, Bound::Same), Verdict::Kept);
    assert_eq!(verdict(1151, 1000, Bound::Same), Verdict::Better);
    let lines = hold(&counts(&[("a", 2000)]), &counts(&[("a", 1000)]), Bound::Same);
    assert!(!fails(&lines));
    assert!(lines[0].to_string().contains("refresh"), "{}", lines[0]);
}

#[test]
fn one_path_that_is_worse_fails_them_all() {
    let stored = counts(&[("a", 1000), ("b", 1000), ("c", 1000)]);
    let now = counts(&[("a", 1000), ("b", 2000), ("c", 500)]);
    let lines = hold(&stored, &now, Bound::Same);
    let verdicts: Vec<Verdict> = lines.iter().map(|line| line.verdict).collect();
    assert_eq!(verdicts, [Verdict::Kept, Verdict::Worse, Verdict::Better]);
    assert!(fails(&lines));
    assert!(
        lines[1].to_string().contains("+100.0 %") && lines[1].to_string().contains("WORSE"),
        "{}",
        lines[1]
    );
    assert!(!fails(&hold(&stored, &stored, Bound::Same)));
}

#[test]
fn a_path_that_only_one_side_knows_fails() {
    let (one, two) = (counts(&[("a", 1000)]), counts(&[("a", 1000), ("b", 1000)]));
    let lines = hold(&one, &two, Bound::Same);
    assert_eq!((lines.len(), lines[1].verdict), (2, Verdict::New));
    assert!(fails(&lines));
    let lines = hold(&two, &one, Bound::Same);
    assert_eq!((lines.len(), lines[1].verdict), (2, Verdict::Gone));
    assert!(fails(&lines));
    // Nothing counted is nothing guarded.
    assert!(fails(&hold(&Counts::new(), &Counts::new(), Bound::Same)));
}

#[test]
fn the_bound_grows_with_what_differs() {
    let stored = origin("1.95.0", "x86_64", "avx2");
    let against = |rustc, arch, cpu| Bound::between(&stored, &origin(rustc, arch, cpu));
    assert_eq!(against("1.95.0", "x86_64", "avx2"), Bound::Same);
    assert_eq!(against("1.95.3", "x86_64", "avx2"), Bound::Same);
    assert_eq!(against("1.96.0-nightly", "x86_64", "avx2"), Bound::OtherCompiler);
    assert_eq!(against("1.95.0", "x86_64", ""), Bound::OtherCompiler);
    assert_eq!(against("1.95.0", "aarch64", ""), Bound::OtherArchitecture);
    // Each still finds what has grown out of all proportion, and only that.
    for (bound, kept, worse) in [
        (Bound::Same, 114, 116),
        (Bound::OtherCompiler, 139, 141),
        (Bound::OtherArchitecture, 249, 251),
    ] {
        assert_eq!(verdict(100, kept, bound), Verdict::Kept, "{bound:?}");
        assert_eq!(verdict(100, worse, bound), Verdict::Worse, "{bound:?}");
    }
}

#[test]
fn the_stored_figures_can_be_read() {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/guard/figures.json");
    let stored: Figures = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    assert!(stored.instructions.len() >= 10, "{stored:?}");
    assert!(stored.instructions.values().all(|&count| count > 1000), "{stored:?}");
    assert!(
        stored.origin.to_string().contains(&stored.origin.rustc),
        "{}",
        stored.origin
    );
    // What is written is what is read.
    let again: Figures = serde_json::from_str(&serde_json::to_string(&stored).unwrap()).unwrap();
    assert_eq!(again, stored);
}
