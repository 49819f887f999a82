//! What systemd is told (`Type=notify`, `WatchdogSec=`), by real processes over a real socket.

use std::sync::mpsc;
use std::time::Duration;

use nats_rerank::protocol::Request;

use crate::faults::{InProcess, lengths};
use crate::support::nats_server::NatsServer;
use crate::support::notify::Ear;
use crate::support::worker::Worker;
use crate::support::{RawCaller, reference, until};

const WATCHDOG_USEC: &str = "300000";

fn model() -> String {
    reference("bert-small").display().to_string()
}

#[test]
fn a_worker_says_when_it_has_joined_that_it_lives_and_when_it_stops() {
    let server = NatsServer::start();
    let mut ear = Ear::new();
    let mut command = Worker::command(&server.url, &model(), &[]);
    ear.listen_to(&mut command, WATCHDOG_USEC);
    let mut worker = Worker::spawn_command(command);
    ear.hear("EXTEND_TIMEOUT_USEC=");
    ear.hear("READY=1");
    assert!(!ear.has_heard("STOPPING=1"));
    assert_eq!(server.members("rerank.v1.score"), 1, "ready means joined");
    ear.hear("WATCHDOG=1");
    ear.hear("WATCHDOG=1");
    worker.signal("TERM");
    ear.hear("STOPPING=1");
    assert!(ear.has_heard("STATUS=serving: bert-small on cpu in fp32"));
    assert_eq!(worker.wait().code(), Some(143), "{}", worker.log());
}

/// A unit of a fleet that is switched off must not fail to start.
#[test]
fn a_worker_that_is_switched_off_is_started() {
    let server = NatsServer::start();
    let mut ear = Ear::new();
    let mut command = Worker::command(&server.url, &model(), &["enabled=false"]);
    ear.listen_to(&mut command, WATCHDOG_USEC);
    let mut worker = Worker::spawn_command(command);
    ear.hear("READY=1");
    ear.hear("WATCHDOG=1");
    assert!(ear.has_heard("STATUS=off"));
    worker.signal("TERM");
    ear.hear("STOPPING=1");
    assert_eq!(worker.wait().code(), Some(143), "{}", worker.log());
}

/// With a setting that is wrong nothing is said: the unit's `RestartPreventExitStatus=64` goes by the exit code.
#[test]
fn a_wrong_setting_is_told_by_the_exit_code() {
    let ear = Ear::new();
    let mut command = Worker::command("nats://127.0.0.1:1", &model(), &["batch.window_ms=never"]);
    ear.listen_to(&mut command, WATCHDOG_USEC);
    assert_eq!(Worker::spawn_command(command).wait().code(), Some(64));
}

#[test]
fn a_supervisor_that_is_not_there_does_not_matter() {
    let server = NatsServer::start();
    let mut command = Worker::command(&server.url, &model(), &[]);
    command.env("NOTIFY_SOCKET", "/no/such/socket");
    let worker = Worker::spawn_command(command);
    worker.wait_for_log("ready: joined the queue group");
    assert_eq!(worker.count_log("cannot be told"), 1, "{}", worker.log());
}

/// What stops the pings, and what `/livez` says: an engine that is at one batch for good, with no bound to end it.
#[tokio::test(flavor = "multi_thread")]
async fn a_hung_engine_gives_no_sign_of_life() {
    let server = NatsServer::start();
    let (wake, asleep) = mpsc::channel::<()>();
    let worker = InProcess::start(
        &server,
        |settings| settings.hang_timeout = None,
        move |pairs| {
            let _ = asleep.recv();
            Ok(lengths(pairs))
        },
    )
    .await;
    assert_eq!(worker.status.why_not_alive(Duration::from_secs(3600)), None);
    let caller = RawCaller::connect(&server.url).await;
    let asked = tokio::spawn(async move { caller.ask(&Request::new("q", ["a"])).await });
    // Longer than an idle engine is ever silent, so it is this one that hangs; its NATS thread goes on.
    let silence_max = Duration::from_secs(7);
    until("silent", || worker.status.why_not_alive(silence_max).is_some()).await;
    let reason = worker.status.why_not_alive(silence_max).unwrap_or_default();
    assert!(reason.starts_with("engine"), "{reason}");
    drop(wake);
    asked.await.expect("no panic").scored();
    until("alive again", || worker.status.why_not_alive(silence_max).is_none()).await;
    worker.stop().await.expect("a clean stop");
}
