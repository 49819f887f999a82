//! The invariants of ARCHITECTURE.md that can be read off the source.

use std::path::{Path, PathBuf};

use crate::support::root;

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a source folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every source file below `src/<folder>` as (path below src, code without comments).
fn code(folder: &str) -> Vec<(String, String)> {
    let src = root().join("src");
    let mut found = Vec::new();
    sources(&src.join(folder), &mut found);
    assert!(!found.is_empty(), "no sources in {folder}");
    found
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("a source file");
            let code: Vec<&str> = text
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .collect();
            (
                path.strip_prefix(&src).expect("below src").display().to_string(),
                code.join("\n"),
            )
        })
        .collect()
}

fn files_with(folder: &str, needle: &str) -> Vec<String> {
    let mut found: Vec<String> = code(folder)
        .into_iter()
        .filter(|(_, code)| code.contains(needle))
        .map(|(path, _)| path)
        .collect();
    found.sort();
    found
}

#[test]
fn only_the_engine_names_tch() {
    // The crate's name, and not the end of `batch::` or `watch::`.
    let names_tch = |code: &str| {
        let word = |text: &str| text.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        code.match_indices("tch::").any(|(at, _)| !word(&code[..at]))
    };
    let elsewhere: Vec<String> = code("")
        .into_iter()
        .filter(|(path, code)| names_tch(code) && !path.starts_with("model/engine/"))
        .map(|(path, _)| path)
        .collect();
    assert_eq!(elsewhere, Vec::<String>::new());
}

#[test]
fn only_few_files_of_the_worker_speak_nats() {
    assert_eq!(
        files_with("worker", "async_nats"),
        [
            "worker/connection.rs",
            "worker/discovery.rs",
            "worker/group.rs",
            "worker/receive.rs",
            "worker/reply.rs"
        ]
    );
}

#[test]
fn pure_files_read_no_clock() {
    let pure = [
        ("worker", &["batch", "rank"][..]),
        ("client", &["scatter", "gather", "breaker", "hedge"]),
    ];
    for (folder, names) in pure {
        let files: Vec<_> = names.iter().map(|name| format!("{folder}/{name}.rs")).collect();
        let found: Vec<_> = code(folder)
            .into_iter()
            .filter(|(path, _)| files.contains(path))
            .collect();
        assert_eq!(found.len(), files.len(), "{files:?}");
        for (path, code) in found {
            let code = code.split("#[cfg(test)]").next().unwrap_or_default();
            for banned in ["Instant::now", "SystemTime", "tokio", "std::fs", "std::net"] {
                assert!(!code.contains(banned), "{path} uses {banned}");
            }
        }
    }
}

#[test]
fn every_metric_is_recorded_somewhere() {
    for module in ["names", "caller_names", "gateway_names"] {
        let file = format!("telemetry/{module}.rs");
        let recorded: String = code("")
            .into_iter()
            .filter(|(path, _)| *path != file)
            .map(|(_, code)| code)
            .collect();
        let names = std::fs::read_to_string(root().join("src").join(file)).expect("a source file");
        let constants: Vec<&str> = names
            .lines()
            .filter(|line| line.contains(": &str = \"rerank_"))
            .filter_map(|line| line.strip_prefix("pub const ")?.split(':').next())
            .collect();
        assert!(constants.len() >= 5, "{constants:?}");
        for constant in constants {
            let used = format!("{module}::{constant}");
            // The very module, and not one whose name ends alike.
            let found = recorded
                .match_indices(&used)
                .any(|(at, _)| !recorded[..at].ends_with('_'));
            // Or it is rendered from another one.
            let derived = names.contains(&format!("        {constant},\n        Kind::SecondsOf("));
            assert!(found || derived, "{used} is never recorded");
        }
    }
}

#[test]
fn the_client_needs_neither_worker_nor_model() {
    for folder in ["client", "protocol"] {
        for (path, code) in code(folder) {
            for banned in ["crate::worker", "crate::model", "crate::config", "crate::cli"] {
                assert!(!code.contains(banned), "{path} uses {banned}");
            }
        }
    }
}

#[test]
fn no_channel_without_a_bound() {
    for needle in ["unbounded_channel", "mpsc::channel()", "crossbeam_channel::unbounded"] {
        assert_eq!(files_with("", needle), Vec::<String>::new(), "{needle}");
    }
}

#[test]
fn the_gateway_needs_neither_worker_nor_model_nor_nats() {
    for (path, code) in code("gateway") {
        for banned in [
            "crate::worker",
            "crate::model",
            "crate::config",
            "crate::cli::",
            "async_nats",
        ] {
            assert!(!code.contains(banned), "{path} uses {banned}");
        }
    }
}
