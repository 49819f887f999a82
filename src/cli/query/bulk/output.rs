//! Where results go, and what an earlier run has left there.

use std::collections::HashSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::cli::query::lines;
use crate::protocol::DocumentId;

/// What the results of an earlier run may take in memory: their ids and line numbers.
const DONE_BYTES_MAX: usize = 512 << 20;
/// What a result takes beside the letters of its id; an upper bound.
const DONE_BYTES_EACH: usize = 64;
/// The longest result that is looked at.
const RESULT_BYTES_MAX: u64 = 256 << 20;

/// Where results go.
#[derive(Debug)]
pub(super) enum Output {
    Stdout,
    File(File),
}

impl Output {
    /// Writes a line, whole and at once: whoever reads sees each result as it comes.
    pub(super) fn write(&mut self, line: &str) -> io::Result<()> {
        match self {
            Output::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(line.as_bytes())?;
                stdout.flush()
            }
            Output::File(file) => file.write_all(line.as_bytes()),
        }
    }
}

/// The queries whose results are there already.
#[derive(Debug, Default)]
pub(super) struct Done {
    ids: HashSet<DocumentId>,
    /// Of queries without an id.
    lines: HashSet<u64>,
}

impl Done {
    pub(super) fn contains(&self, id: Option<&DocumentId>, line: u64) -> bool {
        match id {
            Some(id) => self.ids.contains(id),
            None => self.lines.contains(&line),
        }
    }
}

/// Opens the output. What is in it is read if it is to be gone on with; else it has to be empty.
pub(super) fn open(path: Option<&Path>, resume: bool) -> Result<(Output, Done), String> {
    let Some(path) = path else {
        return Ok((Output::Stdout, Done::default()));
    };
    let told = |problem: String| format!("--output {}: {problem}", path.display());
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .map_err(|error| told(error.to_string()))?;
    let found = file.metadata().map_err(|error| told(error.to_string()))?;
    if !found.is_file() {
        // A pipe or a device has no earlier results.
        return Ok((Output::File(file), Done::default()));
    }
    // Where files cannot be locked, there is nothing to find out.
    if let Err(TryLockError::WouldBlock) = file.try_lock() {
        return Err(told("another run is writing to it".to_owned()));
    }
    if !resume && found.len() > 0 {
        let advice = "--resume goes on with it; or remove it, or name another";
        return Err(told(format!("there is something in it already: {advice}")));
    }
    let done = if resume {
        let earlier = File::open(path).map_err(|error| told(error.to_string()))?;
        let (done, whole_bytes) = read(BufReader::new(earlier)).map_err(told)?;
        // A run that was killed may have left half a line.
        if whole_bytes < found.len() {
            file.set_len(whole_bytes).map_err(|error| told(error.to_string()))?;
        }
        done
    } else {
        Done::default()
    };
    Ok((Output::File(file), done))
}

/// What every result says of the query that it belongs to.
#[derive(Deserialize)]
struct Written {
    line: u64,
    id: Option<Value>,
}

/// Reads earlier results, and how many bytes of them are whole lines.
fn read(mut results: impl BufRead) -> Result<(Done, u64), String> {
    let mut done = Done::default();
    let (mut whole_bytes, mut kept_bytes) = (0, 0);
    let mut buffer = Vec::new();
    for number in 1_u64.. {
        buffer.clear();
        let read = results.by_ref().take(RESULT_BYTES_MAX).read_until(b'\n', &mut buffer);
        let read = read.map_err(|error| error.to_string())?;
        if !buffer.ends_with(b"\n") && (read as u64) < RESULT_BYTES_MAX {
            break;
        }
        let foreign = || format!("line {number} is no result of `query --queries`");
        let written: Written = serde_json::from_slice(&buffer).map_err(|_| foreign())?;
        let id = lines::id("id", written.id).map_err(|_| foreign())?;
        kept_bytes += DONE_BYTES_EACH;
        match id {
            Some(id) => {
                if let DocumentId::Text(text) = &id {
                    kept_bytes += text.len();
                }
                done.ids.insert(id);
            }
            None => {
                done.lines.insert(written.line);
            }
        }
        if kept_bytes > DONE_BYTES_MAX {
            return Err("more results than can be gone on with: begin another file".to_owned());
        }
        whole_bytes += read as u64;
    }
    Ok((done, whole_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EARLIER: &str = "{\"id\":\"a\",\"line\":1,\"order\":\"ann\"}\n{\"line\":2}\n{\"id\":-7,\"line\":4}\n";

    fn path(content: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("results.jsonl");
        std::fs::write(&path, content).expect("a file");
        (folder, path)
    }

    #[test]
    fn results_are_found_by_id_and_else_by_line() {
        let (done, bytes) = read(EARLIER.as_bytes()).expect("results");
        let a = DocumentId::Text("a".into());
        // The id counts, wherever its line is now.
        assert!(done.contains(Some(&a), 99) && done.contains(Some(&DocumentId::Integer(-7)), 1));
        assert!(done.contains(None, 2) && !done.contains(None, 1) && !done.contains(None, 3));
        assert_eq!(bytes, EARLIER.len() as u64);
    }

    #[test]
    fn half_a_line_is_taken_off_and_results_are_added() {
        let (_folder, path) = path(&format!("{EARLIER}{{\"line\":5,\"ord"));
        let (mut output, done) = open(Some(&path), true).expect("an earlier run");
        assert!(!done.contains(None, 5));
        output.write("{\"line\":5}\n").expect("a write");
        let text = std::fs::read_to_string(&path).expect("a file");
        assert_eq!(text, format!("{EARLIER}{{\"line\":5}}\n"));
    }

    #[test]
    fn what_is_there_is_not_lost_unasked() {
        let (_folder, path) = path(EARLIER);
        let told = open(Some(&path), false).expect_err("not empty");
        assert!(told.contains("--resume"), "{told}");
        assert_eq!(std::fs::read_to_string(&path).expect("a file"), EARLIER);
        let first = open(Some(&path), true).expect("an earlier run");
        let told = open(Some(&path), true).expect_err("two runs at once");
        assert!(told.contains("another run"), "{told}");
        drop(first);
        let mut file = OpenOptions::new().append(true).open(&path).expect("a file");
        file.write_all(b"{\"other\": \"SECRET\"}\n").expect("a write");
        let told = open(Some(&path), true).expect_err("something else");
        assert!(
            told.contains("line 4 is no result") && !told.contains("SECRET"),
            "{told}"
        );
    }
}
