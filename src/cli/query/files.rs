//! Documents that are files: the text is what is in the file, the id is its name.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::protocol::{Document, DocumentId};

use super::input::BYTES_MAX;
use super::lines;

/// Longer than any model reads, and than a NATS server takes by default.
const FILE_BYTES_MAX: u64 = 8 << 20;
/// Files of one request; also of one folder, so that a wrong folder is told soon.
const FILES_MAX: usize = 100_000;
/// Problems told at once.
const TOLD_MAX: usize = 10;

/// Reads each file as a document. Every file that will not do is named, up to a few.
pub(super) fn documents(files: &[PathBuf]) -> Result<Vec<Document>, String> {
    if files.len() > FILES_MAX {
        return Err(too_many());
    }
    let ids = ids(files);
    let mut documents = Vec::with_capacity(files.len());
    let mut problems = Vec::new();
    let mut bytes_left = BYTES_MAX;
    for (file, id) in files.iter().zip(ids) {
        match read(file) {
            Ok(text) => {
                bytes_left = bytes_left.checked_sub(text.len() as u64).ok_or_else(|| {
                    let mib = BYTES_MAX >> 20;
                    format!("{}: more than {mib} MiB of documents up to this file", file.display())
                })?;
                documents.push(Document {
                    text,
                    id: Some(DocumentId::Text(id)),
                });
            }
            Err(problem) => problems.push(format!("{}: {problem}", file.display())),
        }
        if problems.len() == TOLD_MAX {
            break;
        }
    }
    match (problems.is_empty(), documents.is_empty()) {
        (false, _) => Err(problems.join("\n  ")),
        (true, true) => Err("no documents: expected files, found none".to_owned()),
        (true, false) => Ok(documents),
    }
}

/// The regular files in a folder by name, without the hidden ones.
pub(super) fn in_folder(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| error.to_string())? {
        let entry = entry.map_err(|error| error.to_string())?;
        let path = entry.path();
        // Through links: a folder of links to files is a folder of files.
        if entry.file_name().as_encoded_bytes().starts_with(b".") || !path.is_file() {
            continue;
        }
        if files.len() == FILES_MAX {
            return Err(too_many());
        }
        files.push(path);
    }
    files.sort();
    if files.is_empty() {
        return Err("no documents: expected files in this folder, found none".to_owned());
    }
    Ok(files)
}

/// The files named in `text`, one a line.
pub(super) fn listed(text: &str) -> Vec<PathBuf> {
    let names = lines::numbered(text).map(|(_, line)| PathBuf::from(line));
    // One more than will do, so that too many are told.
    names.take(FILES_MAX + 1).collect()
}

fn too_many() -> String {
    format!("more than {FILES_MAX} files")
}

/// Each file's name; its whole path, where two have the same name.
fn ids(files: &[PathBuf]) -> Vec<String> {
    let name = |file: &Path| {
        let name = file.file_name().unwrap_or(file.as_os_str());
        name.to_string_lossy().into_owned()
    };
    let mut seen = HashSet::new();
    if files.iter().all(|file| seen.insert(name(file))) {
        files.iter().map(|file| name(file)).collect()
    } else {
        files.iter().map(|file| file.to_string_lossy().into_owned()).collect()
    }
}

fn read(file: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    File::open(file)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| error.to_string())?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("larger than {} MiB", FILE_BYTES_MAX >> 20));
    }
    if bytes.contains(&0) {
        return Err("not a text file: it holds zero bytes".to_owned());
    }
    lines::text(&bytes).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, bytes) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("below the folder")).expect("folders");
            fs::write(path, bytes).expect("a file");
        }
        folder
    }

    #[test]
    fn a_folder_gives_its_files_by_name() {
        let folder = folder(&[
            ("b.txt", b"second\nwith two lines\n"),
            ("a.md", b"first"),
            (".hidden", b"no"),
            ("deeper/c", b"no"),
        ]);
        let read = documents(&in_folder(folder.path()).expect("files")).expect("documents");
        let read: Vec<_> = read
            .iter()
            .map(|document| (document.id.clone().expect("a name").to_string(), document.text.as_str()))
            .collect();
        assert_eq!(
            read,
            [
                ("a.md".to_owned(), "first"),
                ("b.txt".to_owned(), "second\nwith two lines\n")
            ]
        );
    }

    #[test]
    fn equal_names_are_told_apart_by_their_paths() {
        let files = |names: &[&str]| ids(&names.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(files(&["x/a", "y/b"]), ["a", "b"]);
        assert_eq!(files(&["x/a", "y/a"]), ["x/a", "y/a"]);
        assert_eq!(listed("x/a\n\ny/b\r\n"), [Path::new("x/a"), Path::new("y/b")]);
    }

    #[test]
    fn files_that_will_not_do_are_named_all_at_once() {
        let folder = folder(&[("fine", b"text"), ("binary", b"PK\0"), ("latin", b"one\ncaf\xe9")]);
        let at = |name: &str| folder.path().join(name);
        File::create(at("large"))
            .and_then(|file| file.set_len(FILE_BYTES_MAX + 1))
            .expect("a sparse file");
        let told =
            documents(&[at("fine"), at("binary"), at("latin"), at("large"), at("missing")]).expect_err("bad files");
        let told: Vec<&str> = told.lines().collect();
        assert_eq!(told.len(), 4, "{told:?}");
        for (line, problem) in told.iter().zip([
            "binary: not a text file: it holds zero bytes",
            "latin: line 2: not UTF-8 text",
            "large: larger than 8 MiB",
            "missing: No such file",
        ]) {
            assert!(line.contains(problem), "{line}");
        }
        assert!(documents(&[]).is_err());
    }
}
