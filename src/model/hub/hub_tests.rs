//! The hub client against a small HTTP server of our own, with all the moods of a real one.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use ring::digest;
use serde_json::json;

use super::super::files::Checkpoint;
use super::super::fixtures;
use super::super::spec::Architecture;
use super::*;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const ID: &str = "owner/ranker";

#[derive(Clone, Debug, PartialEq)]
struct Seen {
    method: String,
    path: String,
    range: Option<String>,
    authorization: Option<String>,
}

#[derive(Clone, Copy, PartialEq)]
enum Redirect {
    No,
    Relative,
    /// To another server, as large files are.
    Storage,
    /// To itself, over another address.
    Circle,
    /// The same, when a file is downloaded.
    CircleOfDownloads,
    /// To ever another address.
    Endless,
}

/// What the server has, and how it behaves.
struct Moods {
    files: BTreeMap<String, Vec<u8>>,
    ranges: bool,
    redirect: Redirect,
    storage: String,
    /// For the next requests, in place of an answer.
    statuses: VecDeque<(u16, &'static str)>,
    /// For all requests.
    always: Option<u16>,
    /// Break the next downloads of weights off after so many bytes.
    cuts: VecDeque<usize>,
    /// Spoil the next downloads of weights.
    spoiled: u32,
    names_commit: bool,
    /// A file of which no size is told, neither before nor with it: this many bytes come, in chunks.
    endless: Option<(&'static str, usize)>,
}

struct Hub {
    address: String,
    moods: Arc<Mutex<Moods>>,
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Hub {
    fn start() -> Hub {
        let dir = tempfile::tempdir().unwrap();
        fixtures::write_checkpoint(dir.path(), Architecture::Bert);
        let mut files = BTreeMap::new();
        for name in [CONFIG, TOKENIZER, TOKENIZER_CONFIG] {
            files.insert(name.to_owned(), fs::read(dir.path().join(name)).unwrap());
        }
        let names: Vec<String> = (0..3000).map(|i| format!("layer.{i}.weight")).collect();
        let tensors: Vec<(&str, f32)> = names.iter().map(|name| (name.as_str(), 0.5)).collect();
        files.insert(WEIGHTS.to_owned(), fixtures::safetensors(&tensors));

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let moods = Arc::new(Mutex::new(Moods {
            files,
            ranges: true,
            redirect: Redirect::No,
            storage: String::new(),
            statuses: VecDeque::new(),
            always: None,
            cuts: VecDeque::new(),
            spoiled: 0,
            names_commit: true,
            endless: None,
        }));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (moods, seen, stop) = (moods.clone(), seen.clone(), stop.clone());
            move || {
                for stream in listener.incoming() {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let (moods, seen) = (moods.clone(), seen.clone());
                    std::thread::spawn(move || {
                        // A client that hangs up is part of the game.
                        let _ = answer(stream.unwrap(), &moods, &seen);
                    });
                }
            }
        });
        Hub {
            address,
            moods,
            seen,
            stop,
            thread: Some(thread),
        }
    }

    fn set(&self, change: impl FnOnce(&mut Moods)) {
        change(&mut self.moods.lock().unwrap());
    }

    fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }

    fn weights(&self) -> Vec<u8> {
        self.moods.lock().unwrap().files[WEIGHTS].clone()
    }

    fn source(&self, cache: &Path) -> ModelSource {
        ModelSource {
            id: ID.to_owned(),
            cache_dir: Some(cache.to_path_buf()),
            endpoint: Some(self.address.clone()),
            retries_max: 2,
            ..ModelSource::default()
        }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address.trim_start_matches("http://"));
        let _ = self.thread.take().unwrap().join();
    }
}

fn etag(name: &str, bytes: &[u8]) -> String {
    let hash = if name.ends_with(".safetensors") {
        digest::digest(&digest::SHA256, bytes)
    } else {
        let mut blob = format!("blob {}\0", bytes.len()).into_bytes();
        blob.extend_from_slice(bytes);
        digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &blob)
    };
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn answer(mut stream: TcpStream, moods: &Mutex<Moods>, seen: &Mutex<Vec<Seen>>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap_or(Ok(String::new()))?;
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let mut request = Seen {
        method: method.to_owned(),
        path: path.to_owned(),
        range: None,
        authorization: None,
    };
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "range" => request.range = Some(value.to_owned()),
            "authorization" => request.authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    seen.lock().unwrap().push(request.clone());

    let mut moods = moods.lock().unwrap();
    let mut head = String::from("Connection: close\r\n");
    let finish = |stream: &mut TcpStream, status: u16, head: &str, body: &[u8]| -> std::io::Result<()> {
        stream.write_all(format!("HTTP/1.1 {status} X\r\n{head}\r\n").as_bytes())?;
        stream.write_all(body)?;
        stream.flush()
    };
    if let Some(status) = moods.always {
        return finish(&mut stream, status, "Content-Length: 0\r\nConnection: close\r\n", b"");
    }
    if let Some((status, extra)) = moods.statuses.pop_front() {
        return finish(
            &mut stream,
            status,
            &format!("{extra}Content-Length: 0\r\nConnection: close\r\n"),
            b"",
        );
    }
    let (place, name) = path.rsplit_once('/').unwrap_or_default();
    let stored = place == "/storage";
    let known = stored
        || [
            format!("/{ID}/resolve/main"),
            format!("/{ID}/resolve/{COMMIT}"),
            "/moved".into(),
        ]
        .contains(&place.to_owned());
    let bytes = match moods.files.get(name) {
        Some(bytes) if known => bytes.clone(),
        _ => {
            let head = "X-Error-Code: EntryNotFound\r\nContent-Length: 0\r\nConnection: close\r\n";
            return finish(&mut stream, 404, head, b"");
        }
    };
    let tag = etag(name, &bytes);
    let commit = if moods.names_commit {
        format!("X-Repo-Commit: {COMMIT}\r\n")
    } else {
        String::new()
    };
    match moods.redirect {
        Redirect::Circle | Redirect::CircleOfDownloads if method == "GET" || moods.redirect == Redirect::Circle => {
            let to = if place == "/moved" {
                format!("/{ID}/resolve/{COMMIT}/{name}")
            } else {
                format!("/moved/{name}")
            };
            let head = format!("{head}{commit}X-Linked-Etag: \"{tag}\"\r\nLocation: {to}\r\nContent-Length: 0\r\n");
            return finish(&mut stream, 307, &head, b"");
        }
        Redirect::Endless => {
            let head = format!("{head}Location: {path}x\r\nContent-Length: 0\r\n");
            return finish(&mut stream, 307, &head, b"");
        }
        Redirect::Relative if place != "/moved" => {
            let head = format!("{head}Location: /moved/{name}\r\nContent-Length: 0\r\n");
            return finish(&mut stream, 307, &head, b"");
        }
        Redirect::Storage if !stored && name == WEIGHTS => {
            let size = bytes.len();
            let head = format!(
                "{head}{commit}X-Linked-Etag: \"{tag}\"\r\nX-Linked-Size: {size}\r\nETag: \"of-the-redirect\"\r\n\
                 Location: {}/storage/{name}\r\nContent-Length: 0\r\n",
                moods.storage
            );
            return finish(&mut stream, 302, &head, b"");
        }
        _ => {}
    }
    if stored {
        head.push_str("ETag: \"of-the-storage\"\r\n");
    } else {
        head.push_str(&format!("{commit}ETag: \"{tag}\"\r\n"));
    }
    if let Some((_, count)) = moods.endless.filter(|(file, _)| *file == name) {
        drop(moods);
        if method == "HEAD" {
            return finish(&mut stream, 200, &head, b"");
        }
        stream.write_all(format!("HTTP/1.1 200 X\r\n{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes())?;
        let chunk = vec![b' '; 1 << 20];
        let mut left = count;
        while left > 0 {
            let now = left.min(chunk.len());
            stream.write_all(format!("{now:x}\r\n").as_bytes())?;
            stream.write_all(&chunk[..now])?;
            stream.write_all(b"\r\n")?;
            left -= now;
        }
        stream.write_all(b"0\r\n\r\n")?;
        return stream.flush();
    }
    let start = request.range.as_deref().filter(|_| moods.ranges).and_then(|range| {
        range
            .strip_prefix("bytes=")?
            .trim_end_matches('-')
            .parse::<usize>()
            .ok()
    });
    let status = if start.is_some() { 206 } else { 200 };
    let start = start.unwrap_or(0);
    if status == 206 {
        head.push_str(&format!(
            "Content-Range: bytes {start}-{}/{}\r\n",
            bytes.len() - 1,
            bytes.len()
        ));
    }
    head.push_str(&format!("Content-Length: {}\r\n", bytes.len() - start));
    if method == "HEAD" {
        return finish(&mut stream, 200, &head, b"");
    }
    let mut body = bytes[start..].to_vec();
    if name == WEIGHTS {
        if moods.spoiled > 0 {
            moods.spoiled -= 1;
            body[0] ^= 1;
        }
        if let Some(cut) = moods.cuts.pop_front() {
            body.truncate(cut);
        }
    }
    finish(&mut stream, status, &head, &body)
}

fn fetch_now(source: &ModelSource) -> Result<Snapshot, ModelError> {
    Session::new(source, &|_| None, Duration::from_millis(1))?.run(source, &Progress::silent())
}

fn failure(result: Result<Snapshot, ModelError>) -> HubFailure {
    match result {
        Err(ModelError::Hub { failure, .. }) => failure,
        other => panic!("a hub failure was expected: {other:?}"),
    }
}

fn gets(seen: &[Seen], file: &str) -> Vec<Seen> {
    seen.iter()
        .filter(|request| request.method == "GET" && request.path.ends_with(file))
        .cloned()
        .collect()
}

fn repo(cache: &Path) -> std::path::PathBuf {
    cache.join("models--owner--ranker")
}

#[test]
fn a_model_is_downloaded_once_into_the_shared_layout() {
    let (hub, cache) = (Hub::start(), tempfile::tempdir().unwrap());
    let source = hub.source(cache.path());
    let snapshot = fetch_now(&source).unwrap();
    assert_eq!(snapshot.commit, COMMIT);
    let repo = repo(cache.path());
    assert_eq!(snapshot.dir, repo.join("snapshots").join(COMMIT));
    assert_eq!(fs::read_to_string(repo.join("refs/main")).unwrap(), COMMIT);
    assert_eq!(fs::read(snapshot.dir.join(WEIGHTS)).unwrap(), hub.weights());
    let tag = etag(WEIGHTS, &hub.weights());
    let link = fs::read_link(snapshot.dir.join(WEIGHTS)).unwrap();
    assert_eq!(link, Path::new("../../blobs").join(&tag));
    let blobs: Vec<_> = fs::read_dir(repo.join("blobs"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(blobs.len(), 4, "no part files are left: {blobs:?}");
    Checkpoint::open(ID, &snapshot.dir, None).unwrap();
    // Everything after the first look is asked for by commit, so that a push in between cannot mix two versions.
    let seen = hub.seen();
    assert!(
        seen[0].path.contains("/resolve/main/") && seen[1..].iter().all(|r| r.path.contains(COMMIT)),
        "{seen:?}"
    );

    // Again: one look whether `main` has moved.
    assert_eq!(fetch_now(&source).unwrap(), snapshot);
    assert_eq!(hub.seen().len(), 1);
    // A pinned commit, or offline: not even that.
    let pinned = ModelSource {
        revision: COMMIT.to_owned(),
        ..source.clone()
    };
    assert_eq!(fetch_now(&pinned).unwrap(), snapshot);
    let offline = ModelSource {
        offline: true,
        ..source
    };
    assert_eq!(fetch_now(&offline).unwrap(), snapshot);
    assert_eq!(hub.seen(), []);
}

#[test]
fn a_download_that_breaks_off_is_resumed() {
    let (hub, cache) = (Hub::start(), tempfile::tempdir().unwrap());
    hub.set(|moods| moods.cuts = [1000, 2000].into());
    let snapshot = fetch_now(&hub.source(cache.path())).unwrap();
    assert_eq!(fs::read(snapshot.dir.join(WEIGHTS)).unwrap(), hub.weights());
    let ranges: Vec<_> = gets(&hub.seen(), WEIGHTS)
        .into_iter()
        .map(|request| request.range)
        .collect();
    assert_eq!(
        ranges,
        [None, Some("bytes=1000-".to_owned()), Some("bytes=3000-".to_owned())]
    );
}

#[test]
fn without_ranges_it_begins_again() {
    let (hub, cache) = (Hub::start(), tempfile::tempdir().unwrap());
    hub.set(|moods| {
        moods.ranges = false;
        moods.cuts = [1000, 2000].into();
    });
    let snapshot = fetch_now(&hub.source(cache.path())).unwrap();
    assert_eq!(fs::read(snapshot.dir.join(WEIGHTS)).unwrap(), hub.weights());
}

#[test]
fn a_file_that_never_comes_whole_is_never_used_and_can_be_resumed_later() {
    let (hub, cache) = (Hub::start(), tempfile::tempdir().unwrap());
    hub.set(|moods| moods.cuts = [100, 100, 100].into());
    let source = hub.source(cache.path());
    let failure = failure(fetch_now(&source));
    assert!(
        matches!(failure, HubFailure::Connection { .. }) && failure.is_retryable(),
        "{failure}"
    );
    let repo = repo(cache.path());
    let tag = etag(WEIGHTS, &hub.weights());
    assert!(!repo.join("blobs").join(&tag).exists());
    assert!(!repo.join("snapshots").join(COMMIT).join(WEIGHTS).exists());
    // Offline mode is not deceived by what is there.
    assert!(!repo.join("refs/main").exists());
    hub.seen();
    fetch_now(&source).unwrap();
    assert_eq!(gets(&hub.seen(), WEIGHTS)[0].range.as_deref(), Some("bytes=300-"));
}

#[test]
fn what_a_killed_process_left_is_checked_before_it_is_used() {
    let (hub, cache) = (Hub::start(), tempfile::tempdir().unwrap());
    let blobs = repo(cache.path()).join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    let weights = hub.weights();
    let part = blobs.join(format!("{}.incomplete", etag(WEIGHTS, &weights)));
    for left in [vec![7; 500], vec![7; weights.len()], vec![7; weights.len() + 9]] {
        fs::write(&part, left).unwrap();
        let snapshot = fetch_now(&hub.source(cache.path())).unwrap();
        assert_eq!(fs::read(snapshot.dir.join(WEIGHTS)).unwrap(), weights);
        fs::remove_dir_all(repo(cache.path()).join("snapshots")).unwrap();
        fs::remove_file(blobs.join(etag(WEIGHTS, &weights))).unwrap();
    }
}

#[test]
fn spoiled_bytes_are_noticed() {
    let (hub, cache) = (Hub::start(), tempfile::tempdir().unwrap());
    hub.set(|moods| moods.spoiled = 1);
    let snapshot = fetch_now(&hub.source(cache.path())).unwrap();
    assert_eq!(fs::read(snapshot.dir.join(WEIGHTS)).unwrap(), hub.weights());

    let cache = tempfile::tempdir().unwrap();
    hub.set(|moods| moods.spoiled = u32::MAX);
    let failure = failure(fetch_now(&hub.source(cache.path())));
    assert!(
        matches!(&failure, HubFailure::Corrupt { reason } if reason.contains("checksum")),
        "{failure}"
    );
    assert!(!repo(cache.path()).join("snapshots").join(COMMIT).join(WEIGHTS).exists());
}

#[test]
fn passing_failures_are_repeated_and_the_repeats_are_bounded() {
    let (hub, cache) = (Hub::start(), tempfile::tempdir().unwrap());
    hub.set(|moods| moods.statuses = [(500, ""), (429, "Retry-After: 0\r\n")].into());
    fetch_now(&hub.source(cache.path())).unwrap();

    let cache = tempfile::tempdir().unwrap();
    hub.seen();
    hub.set(|moods| moods.always = Some(503));
    let failure = failure(fetch_now(&hub.source(cache.path())));
    assert!(
        matches!(failure, HubFailure::Status { status: 503, .. }) && failure.is_retryable(),
        "{failure}"
    );
    assert_eq!(hub.seen().len(), 3, "the first and two repeats");
}

#[test]
fn refusals_are_final_and_explained() {
    let (hub, cache) = (Hub::start(), tempfile::tempdir().unwrap());
    let refused = |status: u16, token: Option<&str>| {
        hub.set(|moods| moods.always = Some(status));
        let source = ModelSource {
            token: token.map(str::to_owned),
            ..hub.source(cache.path())
        };
        let error = fetch_now(&source).unwrap_err();
        assert!(!error.is_retryable(), "{error}");
        let seen = hub.seen();
        let looks = seen.iter().filter(|seen| seen.path.ends_with("/config.json")).count();
        // A model without config.json may be an adapter: that is asked too, where it is not there.
        assert_eq!(looks, 1, "{status} is not repeated");
        assert_eq!(seen.len(), if status == 404 { 2 } else { 1 }, "{seen:?}");
        error.to_string()
    };
    let message = refused(401, None);
    assert!(
        message.contains(ID) && message.contains("no token was sent"),
        "{message}"
    );
    let message = refused(401, Some("hf_secret"));
    assert!(
        message.contains("expired") && !message.contains("hf_secret"),
        "{message}"
    );
    assert!(refused(403, None).contains("gated"));
    assert!(refused(404, None).contains("check id and revision"));
    assert!(refused(400, None).contains("400"));
}

#[test]
fn redirects_are_followed_and_the_token_stays_with_the_hub() {
    let (hub, storage, cache) = (Hub::start(), Hub::start(), tempfile::tempdir().unwrap());
    let source = ModelSource {
        token: Some("hf_secret".to_owned()),
        ..hub.source(cache.path())
    };
    hub.set(|moods| {
        moods.redirect = Redirect::Storage;
        moods.storage = storage.address.clone();
        moods.cuts = [10].into();
    });
    storage.set(|moods| moods.cuts = [1000].into());
    let snapshot = fetch_now(&source).unwrap();
    assert_eq!(fs::read(snapshot.dir.join(WEIGHTS)).unwrap(), hub.weights());
    assert!(
        hub.seen()
            .iter()
            .all(|request| request.authorization.as_deref() == Some("Bearer hf_secret"))
    );
    let stored = storage.seen();
    assert!(
        stored.iter().all(|request| request.authorization.is_none()),
        "{stored:?}"
    );
    let ranges: Vec<_> = stored.into_iter().map(|request| request.range).collect();
    assert_eq!(ranges, [None, Some("bytes=1000-".to_owned())]);

    let cache = tempfile::tempdir().unwrap();
    hub.set(|moods| moods.redirect = Redirect::Relative);
    hub.set(|moods| moods.cuts.clear());
    let snapshot = fetch_now(&hub.source(cache.path())).unwrap();
    assert_eq!(fs::read(snapshot.dir.join(WEIGHTS)).unwrap(), hub.weights());
}

#[test]
fn redirects_in_a_circle_end_by_name() {
    let (hub, cache) = (Hub::start(), tempfile::tempdir().unwrap());
    hub.set(|moods| moods.redirect = Redirect::Circle);
    let circle = failure(fetch_now(&hub.source(cache.path())));
    assert!(
        matches!(&circle, HubFailure::Protocol { reason } if reason.contains("in a circle, back to 127.0.0.1/")),
        "{circle}"
    );
    assert!(hub.seen().len() <= 3, "it is noticed at the first turn");
    // While a file is downloaded, too: the look before it went well.
    hub.set(|moods| moods.redirect = Redirect::CircleOfDownloads);
    assert!(
        failure(fetch_now(&hub.source(cache.path())))
            .to_string()
            .contains("in a circle")
    );
    assert_eq!(gets(&hub.seen(), CONFIG).len(), 2);
    assert!(!repo(cache.path()).join("refs/main").exists());

    hub.seen();
    hub.set(|moods| moods.redirect = Redirect::Endless);
    let name: &'static str = Box::leak(format!("{CONFIG}{}", "x".repeat(20)).into_boxed_str());
    hub.set(|moods| {
        for length in CONFIG.len()..=name.len() {
            let bytes = moods.files[CONFIG].clone();
            moods.files.insert(name[..length].to_owned(), bytes);
        }
    });
    let endless = failure(fetch_now(&hub.source(cache.path())));
    assert!(
        matches!(&endless, HubFailure::Protocol { reason } if reason.contains("more than 10 times")),
        "{endless}"
    );
    assert_eq!(hub.seen().len(), 11);
}

#[test]
fn a_json_file_of_untold_length_is_bounded() {
    let (hub, cache) = (Hub::start(), tempfile::tempdir().unwrap());
    let bound = super::super::object::JSON_BYTES_MAX as usize;
    hub.set(|moods| moods.endless = Some((CONFIG, bound * 4)));
    let failure = failure(fetch_now(&hub.source(cache.path())));
    assert!(
        matches!(&failure, HubFailure::Protocol { reason } if reason.contains(&bound.to_string()) && reason.contains(CONFIG)),
        "{failure}"
    );
    assert!(!failure.is_retryable());
    assert_eq!(
        gets(&hub.seen(), CONFIG).len(),
        1,
        "what is too long is not asked for again"
    );
    let blobs = repo(cache.path()).join("blobs");
    let left: u64 = fs::read_dir(blobs)
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert_eq!(left, 0, "nothing of it is kept");
}

#[test]
fn a_date_to_try_again_at_is_waited_for_within_bounds() {
    let (hub, cache) = (Hub::start(), tempfile::tempdir().unwrap());
    // By the server's clock: a moment from now, and long ago.
    hub.set(|moods| {
        moods.statuses = [
            (
                503,
                "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nRetry-After: Sun, 06 Nov 1994 08:49:38 GMT\r\n",
            ),
            (429, "Retry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n"),
        ]
        .into();
    });
    let began = std::time::Instant::now();
    fetch_now(&hub.source(cache.path())).unwrap();
    assert!(
        began.elapsed() >= Duration::from_secs(1),
        "the first pause in a test is a millisecond otherwise"
    );
}

#[test]
fn a_server_that_is_no_hub_is_told_so() {
    let (hub, cache) = (Hub::start(), tempfile::tempdir().unwrap());
    hub.set(|moods| moods.names_commit = false);
    let failure = failure(fetch_now(&hub.source(cache.path())));
    assert!(
        matches!(&failure, HubFailure::Protocol { reason } if reason.contains("X-Repo-Commit")),
        "{failure}"
    );
}

#[test]
fn many_processes_may_download_at_once() {
    let (hub, cache) = (Hub::start(), tempfile::tempdir().unwrap());
    let source = hub.source(cache.path());
    let snapshots: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..6).map(|_| scope.spawn(|| fetch_now(&source).unwrap())).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    for snapshot in snapshots {
        assert_eq!(fs::read(snapshot.dir.join(WEIGHTS)).unwrap(), hub.weights());
    }
    assert_eq!(
        gets(&hub.seen(), WEIGHTS).len(),
        1,
        "the lock lets one download and the others wait for it"
    );
}

#[test]
fn a_warm_cache_outlives_the_hub_and_a_cold_one_says_what_is_missing() {
    let (hub, cache) = (Hub::start(), tempfile::tempdir().unwrap());
    let source = hub.source(cache.path());
    let offline = ModelSource {
        offline: true,
        ..source.clone()
    };
    let error = fetch_now(&offline).unwrap_err().to_string();
    assert!(error.contains("offline") && error.contains("revision main"), "{error}");

    let snapshot = fetch_now(&source).unwrap();
    drop(hub);
    assert_eq!(fetch_now(&source).unwrap(), snapshot);

    fs::remove_file(snapshot.dir.join(WEIGHTS)).unwrap();
    let error = fetch_now(&offline).unwrap_err().to_string();
    assert!(error.contains(WEIGHTS), "{error}");
    let failure = failure(fetch_now(&source));
    assert!(matches!(failure, HubFailure::Connection { .. }), "{failure}");
}

/// Files where folders would have to be made stand for a read-only mount: tests may run as root, who may write anywhere.
#[test]
fn a_cache_that_cannot_be_written_serves_what_it_has_whole_of_a_branch_that_has_moved() {
    const OLD: &str = "76543210fedcba9876543210fedcba9876543210";
    let hub = Hub::start();
    let cache = tempfile::tempdir().unwrap();
    let source = hub.source(cache.path());
    fetch_now(&source).unwrap();
    let repo = repo(cache.path());
    let (old, new) = (repo.join("snapshots").join(OLD), repo.join("snapshots").join(COMMIT));
    fs::rename(&new, &old).unwrap();
    fs::write(repo.join("refs").join("main"), OLD).unwrap();
    fs::write(&new, "").unwrap();
    assert_eq!(fetch_now(&source).unwrap().commit, OLD);
    // A pinned commit is that commit or nothing.
    let pinned = ModelSource {
        revision: COMMIT.to_owned(),
        ..source.clone()
    };
    assert!(matches!(fetch_now(&pinned), Err(ModelError::Io { .. })));
    // Nor is half a snapshot served.
    fs::rename(old.join(WEIGHTS), old.join("elsewhere")).unwrap();
    assert!(matches!(fetch_now(&source), Err(ModelError::Io { .. })));
    fs::rename(old.join("elsewhere"), old.join(WEIGHTS)).unwrap();
    // The new commit is whole, and only the note of it cannot be written.
    fs::remove_file(&new).unwrap();
    fs::rename(&old, &new).unwrap();
    fs::remove_dir_all(repo.join("refs")).unwrap();
    fs::write(repo.join("refs"), "").unwrap();
    assert_eq!(fetch_now(&source).unwrap().commit, COMMIT);
}

#[test]
fn shards_are_fetched_and_a_name_cannot_reach_out_of_the_folder() {
    let (hub, cache) = (Hub::start(), tempfile::tempdir().unwrap());
    let index = |name: &str| {
        let index = json!({"weight_map": {"a": "model-1.safetensors", "b": name}});
        serde_json::to_vec(&index).unwrap()
    };
    hub.set(|moods| {
        moods.files.remove(WEIGHTS);
        moods
            .files
            .insert(WEIGHTS_INDEX.to_owned(), index("model-2.safetensors"));
        moods
            .files
            .insert("model-1.safetensors".to_owned(), fixtures::safetensors(&[("a", 0.0)]));
        moods
            .files
            .insert("model-2.safetensors".to_owned(), fixtures::safetensors(&[("b", 0.0)]));
    });
    let snapshot = fetch_now(&hub.source(cache.path())).unwrap();
    assert_eq!(Checkpoint::open(ID, &snapshot.dir, None).unwrap().weights.len(), 2);

    let cache = tempfile::tempdir().unwrap();
    hub.set(|moods| {
        drop(
            moods
                .files
                .insert(WEIGHTS_INDEX.to_owned(), index("../../evil.safetensors")),
        )
    });
    let error = fetch_now(&hub.source(cache.path())).unwrap_err();
    assert!(
        matches!(&error, ModelError::Field { field, .. } if field == "weight_map"),
        "{error}"
    );
}

#[test]
fn what_cannot_be_served_is_refused_before_its_weights_are_downloaded() {
    let (hub, cache) = (Hub::start(), tempfile::tempdir().unwrap());
    let config = json!({"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"});
    hub.set(|moods| {
        drop(
            moods
                .files
                .insert(CONFIG.to_owned(), serde_json::to_vec(&config).unwrap()),
        )
    });
    let error = fetch_now(&hub.source(cache.path())).unwrap_err();
    assert!(matches!(error, ModelError::Unsupported { .. }), "{error}");
    assert_eq!(gets(&hub.seen(), WEIGHTS), []);
}

#[test]
fn the_files_that_change_scores_come_with_the_model() {
    let (hub, cache) = (Hub::start(), tempfile::tempdir().unwrap());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/layout/prompt");
    let names = [MODULES, SENTENCE_TRANSFORMERS, SENTENCE_BERT[0]];
    hub.set(|moods| {
        for name in names {
            moods
                .files
                .insert(name.to_owned(), fs::read(folder.join(name)).unwrap());
        }
    });
    let snapshot = fetch_now(&hub.source(cache.path())).unwrap();
    let checkpoint = Checkpoint::open(ID, &snapshot.dir, None).unwrap();
    assert_eq!(checkpoint.spec.query_prompt.unwrap().text, "find: ");
    // A cache of an earlier version, which did not ask for them: completed at the next start, and served as it is while the
    // hub is away.
    let repo = repo(cache.path());
    for name in names {
        fs::remove_file(snapshot.dir.join(name)).unwrap();
    }
    let _ = fs::remove_dir_all(repo.join(".no_exist"));
    let pinned = ModelSource {
        revision: COMMIT.to_owned(),
        retries_max: 0,
        ..hub.source(cache.path())
    };
    hub.set(|moods| moods.always = Some(503));
    assert_eq!(fetch_now(&pinned).unwrap(), snapshot);
    assert!(!snapshot.dir.join(MODULES).is_file());
    hub.set(|moods| moods.always = None);
    fetch_now(&pinned).unwrap();
    let completed = Checkpoint::open(ID, &snapshot.dir, None).unwrap();
    assert_eq!(completed.spec.query_prompt.unwrap().text, "find: ");
    // What cannot be scored is refused before its weights come.
    let (hub, cache) = (Hub::start(), tempfile::tempdir().unwrap());
    let folder = folder.with_file_name("message");
    hub.set(|moods| {
        for name in names {
            moods
                .files
                .insert(name.to_owned(), fs::read(folder.join(name)).unwrap());
        }
    });
    let error = fetch_now(&hub.source(cache.path())).unwrap_err().to_string();
    assert!(error.contains("modality_config.message"), "{error}");
    assert_eq!(gets(&hub.seen(), WEIGHTS), []);
}

#[test]
fn an_adapter_on_the_hub_says_what_to_do() {
    let (hub, cache) = (Hub::start(), tempfile::tempdir().unwrap());
    hub.set(|moods| drop(moods.files.insert(ADAPTER.to_owned(), b"{}".to_vec())));
    for config_is_there in [true, false] {
        if !config_is_there {
            hub.set(|moods| drop(moods.files.remove(CONFIG)));
        }
        for revision in ["main", COMMIT] {
            let source = ModelSource {
                revision: revision.to_owned(),
                ..hub.source(cache.path())
            };
            let error = fetch_now(&source).unwrap_err();
            assert!(
                matches!(&error, ModelError::Adapter { place } if place == ID),
                "{error}"
            );
        }
    }
    assert_eq!(gets(&hub.seen(), WEIGHTS), []);
}

#[test]
fn a_pickle_is_named_and_not_touched() {
    let (hub, cache) = (Hub::start(), tempfile::tempdir().unwrap());
    hub.set(|moods| {
        moods.files.remove(WEIGHTS);
        moods
            .files
            .insert("pytorch_model.bin".to_owned(), b"cos\nsystem".to_vec());
    });
    let error = fetch_now(&hub.source(cache.path())).unwrap_err();
    assert!(
        matches!(&error, ModelError::PickleOnly { file, .. } if file == "pytorch_model.bin"),
        "{error}"
    );
    assert_eq!(gets(&hub.seen(), "pytorch_model.bin"), []);

    hub.set(|moods| drop(moods.files.remove("pytorch_model.bin")));
    let cache = tempfile::tempdir().unwrap();
    let error = fetch_now(&hub.source(cache.path())).unwrap_err();
    assert!(
        matches!(&error, ModelError::MissingFile { file, .. } if file == WEIGHTS),
        "{error}"
    );
}

#[test]
fn names_that_no_hub_has_are_refused_before_anything_is_asked() {
    for id in [
        "a/b/c",
        "/x",
        "x/",
        "a b",
        "a/..",
        "owner/na--me",
        "-a/b",
        "a/b.",
        "ö/b",
        "",
    ] {
        let source = ModelSource {
            id: id.to_owned(),
            ..ModelSource::default()
        };
        assert!(matches!(fetch_now(&source), Err(ModelError::InvalidId { .. })), "{id}");
    }
    for revision in ["", "../x", "a//b", "main branch", "/a", "a/.git"] {
        let source = ModelSource {
            id: ID.to_owned(),
            revision: revision.to_owned(),
            ..ModelSource::default()
        };
        assert!(
            matches!(fetch_now(&source), Err(ModelError::InvalidId { .. })),
            "{revision}"
        );
    }
    for endpoint in ["huggingface.co", "ftp://x", "file:///etc"] {
        let source = ModelSource {
            id: ID.to_owned(),
            endpoint: Some(endpoint.to_owned()),
            ..ModelSource::default()
        };
        let failure = failure(fetch_now(&source));
        assert!(matches!(failure, HubFailure::Protocol { .. }), "{endpoint}: {failure}");
    }
}

#[test]
fn the_cache_is_where_every_other_tool_has_it() {
    let with = |variables: &'static [(&'static str, &'static str)]| {
        cache::default_dir(&move |name| {
            variables
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        })
    };
    assert_eq!(with(&[("HF_HUB_CACHE", "/c"), ("HF_HOME", "/h")]), Path::new("/c"));
    assert_eq!(with(&[("HF_HOME", "/h")]), Path::new("/h/hub"));
    assert_eq!(with(&[("XDG_CACHE_HOME", "/x")]), Path::new("/x/huggingface/hub"));
    assert!(with(&[]).ends_with(".cache/huggingface/hub"));
}
