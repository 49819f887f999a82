//! One file from the hub into the cache: whole or not at all.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use ring::digest;
use tracing::{debug, warn};
use ureq::http::StatusCode;

use super::super::error::{HubFailure, ModelError};
use super::super::files::TOKENIZER;
use super::super::object::JSON_BYTES_MAX;
use super::super::tokenizer::TOKENIZER_BYTES_MAX;
use super::cache::{RepoCache, create_parent, temporary_beside};
use super::http::{Client, Refusal, RemoteFile};
use super::progress::{FileProgress, Progress};

const CHUNK_BYTES: usize = 1 << 18;
/// An attempt that brought the file so much further does not use up a repeat: a large file over a poor line gets there.
const PROGRESS_BYTES: u64 = 4 << 20;
/// Bytes of a file of weights whose size nobody has told: no reranker has as many.
const UNTOLD_WEIGHTS_BYTES_MAX: u64 = 64 << 30;
const LOCK_POLL: Duration = Duration::from_millis(100);
/// How often another process's download is looked at, without any growth, until we download by ourselves.
const LOCK_POLLS_MAX: u32 = 600;

/// Bytes that a file may have at most. A file of JSON is read whole once it is here, so no server may make it longer than that
/// reader takes, whatever size it names; weights may have any size that was told beforehand.
fn bytes_max(file: &str, size_bytes: Option<u64>) -> u64 {
    match (file, size_bytes) {
        (TOKENIZER, _) => TOKENIZER_BYTES_MAX,
        (file, _) if file.ends_with(".json") => JSON_BYTES_MAX,
        (_, Some(size_bytes)) => size_bytes,
        (_, None) => UNTOLD_WEIGHTS_BYTES_MAX,
    }
}

fn too_large(file: &str, bytes_max: u64) -> HubFailure {
    HubFailure::Protocol {
        reason: format!("it has more bytes than the {bytes_max} that {file} may have"),
    }
}

/// What ended a download.
#[derive(Debug)]
pub(super) enum Failure {
    Hub(HubFailure),
    Disk { path: PathBuf, source: std::io::Error },
}

impl From<ModelError> for Failure {
    fn from(error: ModelError) -> Self {
        match error {
            ModelError::Io { path, source } => Failure::Disk { path, source },
            ModelError::Hub { failure, .. } => Failure::Hub(failure),
            other => Failure::Hub(HubFailure::Protocol {
                reason: other.to_string(),
            }),
        }
    }
}

/// Where the bytes go until they are whole.
struct Part {
    path: PathBuf,
    /// Held while we write to the name that all processes share. Without it, the name is ours alone and cannot be resumed
    /// by anyone, so it is removed in the end.
    lock: Option<File>,
}

impl Drop for Part {
    fn drop(&mut self) {
        if self.lock.is_none() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Downloads `remote` into its place among the blobs. When this returns well, the whole, checked file is there, whether by
/// us or by another process.
pub(super) fn download(
    client: &Client,
    cache: &RepoCache,
    remote: &RemoteFile,
    file: &str,
    progress: &Progress,
) -> Result<(), Failure> {
    let blob = cache.blob(&remote.etag);
    let bytes_max = bytes_max(file, remote.size_bytes);
    if remote.size_bytes.is_some_and(|size| size > bytes_max) {
        return Err(Failure::Hub(too_large(file, bytes_max)));
    }
    create_parent(&blob)?;
    let mut shown = progress.begin(file, remote.size_bytes);
    let Some(part) = claim(&blob, &cache.lock(&remote.etag), &shown)? else {
        debug!(file, "another process has downloaded it");
        shown.finish(remote.size_bytes.unwrap_or(0));
        return Ok(());
    };
    let disk = |source| Failure::Disk {
        path: part.path.clone(),
        source,
    };
    let (mut retries, mut furthest) = (0, length(&part.path));
    loop {
        let refusal = match attempt(client, remote, file, &part.path, &mut shown) {
            Ok(()) => break,
            Err(Stop::Disk(source)) => return Err(disk(source)),
            Err(Stop::Hub(refusal)) => refusal,
        };
        if !refusal.failure.is_retryable() {
            return Err(Failure::Hub(refusal.failure));
        }
        let reached = length(&part.path);
        if reached >= furthest + PROGRESS_BYTES {
            furthest = reached;
            retries = 0;
        }
        if retries == client.retries_max() {
            return Err(Failure::Hub(refusal.failure));
        }
        retries += 1;
        shown.say("connection lost, trying again");
        client.pause(retries, file, &refusal);
    }
    fs::rename(&part.path, &blob).map_err(disk)?;
    shown.finish(length(&blob));
    Ok(())
}

/// Takes the shared name under its lock, waiting while another process gets on with it. None: that process has finished it.
fn claim(blob: &Path, lock_path: &Path, shown: &FileProgress) -> Result<Option<Part>, Failure> {
    let mut name = blob.file_name().unwrap_or_default().to_owned();
    name.push(".incomplete");
    let path = blob.with_file_name(name);
    let ours_alone = || Part {
        path: temporary_beside(blob),
        lock: None,
    };

    create_parent(lock_path)?;
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(lock_path)
        .map_err(|source| Failure::Disk {
            path: lock_path.to_path_buf(),
            source,
        })?;
    let (mut polls, mut seen) = (0, 0);
    loop {
        match lock.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) => {}
            // Some network file systems have no locks.
            Err(TryLockError::Error(error)) => {
                debug!(%error, "no file lock here; the file gets a name of its own");
                return Ok(Some(ours_alone()));
            }
        }
        if blob.is_file() {
            return Ok(None);
        }
        if polls == 0 {
            shown.say("waiting for another process that downloads it");
        }
        let now = length(&path);
        polls = if now == seen { polls + 1 } else { 1 };
        seen = now;
        if polls > LOCK_POLLS_MAX {
            warn!("another process holds the lock of this download and makes no progress; downloading beside it");
            return Ok(Some(ours_alone()));
        }
        thread::sleep(LOCK_POLL);
    }
    if blob.is_file() {
        return Ok(None);
    }
    Ok(Some(Part { path, lock: Some(lock) }))
}

enum Stop {
    Hub(Refusal),
    Disk(std::io::Error),
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        Stop::Disk(error)
    }
}

impl From<HubFailure> for Stop {
    fn from(failure: HubFailure) -> Self {
        Stop::Hub(failure.into())
    }
}

/// One go: resumes where the part file ends, reads to the end, checks the whole.
fn attempt(
    client: &Client,
    remote: &RemoteFile,
    file: &str,
    path: &Path,
    shown: &mut FileProgress,
) -> Result<(), Stop> {
    let mut part = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)?;
    let mut start = part.metadata()?.len();
    if remote.size_bytes.is_some_and(|size| start > size) {
        part.set_len(0)?;
        start = 0;
    }
    if start == 0 || remote.size_bytes != Some(start) {
        fill(client, remote, file, &mut part, start, shown)?;
    }
    part.flush()?;
    if let Err(reason) = check(&mut part, remote)? {
        // Nothing of it can be trusted.
        part.set_len(0)?;
        return Err(HubFailure::Corrupt { reason }.into());
    }
    part.sync_all()?;
    Ok(())
}

/// Reads the answer into the part file, from `start` on if the server agrees.
fn fill(
    client: &Client,
    remote: &RemoteFile,
    file: &str,
    part: &mut File,
    start: u64,
    shown: &mut FileProgress,
) -> Result<(), Stop> {
    let response = client.open(&remote.commit, file, start).map_err(Stop::Hub)?;
    let content_range = response
        .headers()
        .get("content-range")
        .and_then(|value| value.to_str().ok());
    let mut at = match response.status() {
        StatusCode::PARTIAL_CONTENT => match content_range.and_then(first_byte) {
            Some(first) if first == start => start,
            _ => {
                part.set_len(0)?;
                return Err(HubFailure::Corrupt {
                    reason: "the server sent another range than was asked for".into(),
                }
                .into());
            }
        },
        StatusCode::RANGE_NOT_SATISFIABLE => {
            // Of a file whose size nobody told us, we may have all; the check says whether that is so.
            if remote.size_bytes.is_none() && start > 0 {
                return Ok(());
            }
            part.set_len(0)?;
            return Err(HubFailure::Corrupt {
                reason: "the server has nothing where the download broke off".into(),
            }
            .into());
        }
        _ => {
            part.set_len(0)?;
            0
        }
    };
    let bytes_max = bytes_max(file, remote.size_bytes);
    let announced = response.body().content_length().map(|rest| at.saturating_add(rest));
    part.seek(SeekFrom::Start(at))?;
    let mut reader = response.into_body().into_reader();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = match reader.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => {
                return Err(HubFailure::Connection {
                    reason: format!("the download broke off: {error}"),
                }
                .into());
            }
        };
        at += read as u64;
        if remote.size_bytes.is_none() && at > bytes_max {
            part.set_len(0)?;
            return Err(too_large(file, bytes_max).into());
        }
        if remote.size_bytes.is_some_and(|size| at > size) {
            part.set_len(0)?;
            return Err(HubFailure::Corrupt {
                reason: "more bytes came than the file has".into(),
            }
            .into());
        }
        part.write_all(&chunk[..read])?;
        shown.at(at);
    }
    match remote.size_bytes.or(announced) {
        Some(size) if at < size => Err(HubFailure::Connection {
            reason: format!("the download broke off after {at} of {size} bytes"),
        }
        .into()),
        _ => Ok(()),
    }
}

/// The first byte's place in `bytes 100-199/200`.
fn first_byte(content_range: &str) -> Option<u64> {
    content_range
        .trim()
        .strip_prefix("bytes")?
        .trim()
        .split('-')
        .next()?
        .parse()
        .ok()
}

/// Compares length and checksum. Large files have their SHA-256 as etag, small ones their git hash; any other etag says
/// nothing that could be compared.
fn check(part: &mut File, remote: &RemoteFile) -> Result<Result<(), String>, std::io::Error> {
    let len = part.metadata()?.len();
    if let Some(size) = remote.size_bytes
        && size != len
    {
        return Ok(Err(format!("{len} bytes came in place of {size}")));
    }
    let hexadecimal = remote.etag.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut context = match remote.etag.len() {
        64 if hexadecimal => digest::Context::new(&digest::SHA256),
        40 if hexadecimal => {
            let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
            context.update(format!("blob {len}\0").as_bytes());
            context
        }
        _ => return Ok(Ok(())),
    };
    part.seek(SeekFrom::Start(0))?;
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match part.read(&mut chunk)? {
            0 => break,
            read => context.update(&chunk[..read]),
        }
    }
    let found: String = context
        .finish()
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    if found.eq_ignore_ascii_case(&remote.etag) {
        Ok(Ok(()))
    } else {
        Ok(Err(format!(
            "the checksum differs: {found} in place of {}",
            remote.etag
        )))
    }
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}
