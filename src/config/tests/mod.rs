//! The rules of the whole. No test reads the environment of its process: it is a parameter of [`super::load`].

mod documents;
mod layers;
mod messages;
mod together;

use std::io::Write as _;
use std::path::PathBuf;

use super::*;

/// An environment and nothing else.
fn with_environment(variables: &[(&str, &str)]) -> Sources {
    let pairs = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Sources {
        environment: pairs.collect(),
        ..Sources::default()
    }
}

fn with_set(pairs: &[(&str, &str)]) -> Sources {
    let flags = pairs.iter().map(|(key, value)| Flag {
        name: "--set".to_owned(),
        key: (*key).to_owned(),
        value: (*value).to_owned(),
    });
    Sources {
        flags: flags.collect(),
        ..Sources::default()
    }
}

/// A file of that text, kept as long as the first part is.
fn file(text: &str) -> (tempfile::NamedTempFile, PathBuf) {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(text.as_bytes()).expect("room for it");
    let path = file.path().to_owned();
    (file, path)
}

fn config(sources: &Sources) -> Config {
    load(sources).unwrap_or_else(|error| panic!("{error}")).config
}

/// The problems, one a line.
fn problems(sources: &Sources) -> Vec<String> {
    match load(sources) {
        Ok(_) => panic!("should not be valid"),
        Err(error) => error.problems.iter().map(ToString::to_string).collect(),
    }
}

fn only_problem(sources: &Sources) -> String {
    let mut problems = problems(sources);
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems.remove(0)
}
