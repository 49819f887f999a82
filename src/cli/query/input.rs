//! Where documents come from: standard input, a file of lines, or files that are a document each.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::Path;

use crate::protocol::Document;

use super::args::{DocumentArgs, DocumentsFormat};
use super::files;
use super::lines::{self, Fields};

/// More than any NATS server takes in one message.
pub(super) const BYTES_MAX: u64 = 64 << 20;

/// Reads the documents that the arguments ask for. The error is a message for people.
pub(super) fn documents(args: &DocumentArgs) -> Result<Vec<Document>, String> {
    if !args.document.is_empty() {
        return files::documents(&args.document).map_err(|problem| format!("--document: {problem}"));
    }
    if let Some(folder) = &args.documents_from {
        return files::in_folder(folder)
            .map_err(|problem| format!("{}: {problem}", folder.display()))
            .and_then(|found| files::documents(&found))
            .map_err(|problem| format!("--documents-from: {problem}"));
    }
    let file = args.documents.as_deref().filter(|_| !args.on_stdin());
    let (from, bytes) = match file {
        Some(file) => {
            let from = format!("--documents {}", file.display());
            if file.is_dir() {
                return Err(format!(
                    "{from}: it is a folder; --documents-from reads the files in it"
                ));
            }
            let bytes = File::open(file)
                .and_then(read)
                .map_err(|error| format!("{from}: {error}"))?;
            (from, bytes)
        }
        None => {
            let stdin = io::stdin();
            if stdin.is_terminal() {
                crate::cli::say("Reading documents, one a line; end with Ctrl-D. (--documents FILE reads a file.)");
            }
            let bytes = read(stdin.lock()).map_err(|error| format!("standard input: {error}"))?;
            ("standard input".to_owned(), bytes)
        }
    };
    parse(&bytes, file, args).map_err(|problem| format!("{from}: {problem}"))
}

/// The fields of JSON objects that the arguments name.
pub(super) fn fields(args: &DocumentArgs) -> Fields {
    Fields {
        text: args.text_field.clone(),
        id: args.id_field.clone(),
    }
}

fn parse(bytes: &[u8], file: Option<&Path>, args: &DocumentArgs) -> Result<Vec<Document>, String> {
    let text = lines::text(bytes)?;
    let fields = fields(args);
    match args.format() {
        Some(DocumentsFormat::Files) => files::documents(&files::listed(text)),
        Some(DocumentsFormat::Lines) => lines::documents(text, None),
        Some(DocumentsFormat::Jsonl) => lines::documents(text, Some(&fields)),
        None => {
            let first = lines::numbered(text).next().map_or("", |(_, line)| line);
            // Fields with names of their own are fields of JSON.
            if fields == Fields::default() && !lines::look_like_json(file, first) {
                return lines::documents(text, None);
            }
            lines::documents(text, Some(&fields)).map_err(|problem| {
                format!("{problem} (taken for JSON lines; --documents-format lines takes it for text)")
            })
        }
    }
}

fn read(source: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > BYTES_MAX {
        let mib = BYTES_MAX >> 20;
        return Err(io::Error::other(format!("more than {mib} MiB of documents")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: DocumentArgs,
    }

    fn args(flags: &[&str]) -> DocumentArgs {
        Line::parse_from(["x"].iter().chain(flags)).args
    }

    fn read(bytes: &[u8], flags: &[&str]) -> Result<Vec<String>, String> {
        let documents = parse(bytes, None, &args(flags))?;
        Ok(documents.into_iter().map(|document| document.text).collect())
    }

    #[test]
    fn lines_are_taken_for_what_they_look_like_unless_told() {
        let lines = b"{\"text\": \"a\", \"body\": \"b\"}\n\"c\"\n";
        assert_eq!(read(lines, &[]), Ok(vec!["a".into(), "c".into()]));
        assert_eq!(read(lines, &["--text-field", "body"]), Ok(vec!["b".into(), "c".into()]));
        let as_text = read(lines, &["--documents-format", "lines"]).expect("text");
        assert_eq!(as_text[1], "\"c\"");
        assert_eq!(read(b"\"c\"", &[]), Ok(vec!["\"c\"".into()]));
        assert_eq!(read(b"\"c\"", &["--jsonl"]), Ok(vec!["c".into()]));
        let told = read(b"{}\n", &[]).expect_err("no text");
        assert!(
            told.starts_with("line 1: `text`") && told.contains("--documents-format lines"),
            "{told}"
        );
    }

    #[test]
    fn a_list_of_files_is_a_document_each() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("a.txt");
        std::fs::write(&file, "in the file").expect("a file");
        let list = format!("{}\n", file.display());
        let read = read(list.as_bytes(), &["--documents-format", "files"]);
        assert_eq!(read, Ok(vec!["in the file".into()]));
    }

    #[test]
    fn an_unreadable_source_is_named() {
        let told = |flags: &[&str]| documents(&args(flags)).expect_err("nothing to read");
        let missing = told(&["--documents", "/nonexistent/candidates.txt"]);
        assert!(
            missing.starts_with("--documents /nonexistent/candidates.txt: "),
            "{missing}"
        );
        let folder = told(&["--documents", "/"]);
        assert!(
            folder.starts_with("--documents /: ") && folder.contains("--documents-from"),
            "{folder}"
        );
        let missing = told(&["--documents-from", "/nonexistent"]);
        assert!(missing.starts_with("--documents-from: /nonexistent: "), "{missing}");
        let missing = told(&["--document", "/nonexistent"]);
        assert!(missing.starts_with("--document: /nonexistent: "), "{missing}");
    }
}
