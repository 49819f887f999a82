//! The units of deploy/systemd and the settings beside them: the program takes what they say. That systemd takes the units is
//! checked by deploy/check/nats-systemd.

use std::process::Output;

use crate::support::root;
use crate::support::worker::program;

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join("deploy/systemd").join(name)).expect("a file of deploy/systemd")
}

/// The assignments of every `Environment=` of a unit, as instance 0 would have them.
fn environment(unit: &str) -> Vec<(String, String)> {
    let lines = unit.lines().filter_map(|line| line.strip_prefix("Environment="));
    lines
        .flat_map(str::split_whitespace)
        .map(|assignment| {
            let (name, value) = assignment.split_once('=').expect("NAME=VALUE");
            let value = value
                .replace("%i", "0")
                .replace("%C", "/var/cache")
                .replace("%d", "/run/credentials/it");
            assert!(!value.contains('%'), "{assignment}");
            (name.to_owned(), value)
        })
        .collect()
}

/// `config COMMAND` with the unit's environment and the settings that lie beside it.
fn config(command: &[&str], environment: &[(String, String)], settings: &str) -> Output {
    let mut program = program();
    program.env_remove("RERANK_HEALTH__LISTEN");
    program.arg("config").args(command).arg("--config");
    program.arg(root().join("deploy/systemd").join(settings));
    program.envs(environment.iter().cloned()).output().expect("the program")
}

fn value(environment: &[(String, String)], settings: &str, place: &str) -> serde_json::Value {
    let printed = config(&["print", "--format", "json"], environment, settings);
    assert!(printed.status.success(), "{printed:?}");
    let all: serde_json::Value = serde_json::from_slice(&printed.stdout).expect("JSON");
    all.pointer(place)
        .cloned()
        .unwrap_or_else(|| panic!("no {place} in {all}"))
}

#[test]
fn the_program_takes_what_the_units_say() {
    let gpu = environment(&read("nats-rerank@.service"));
    let cpu = [gpu.clone(), environment(&read("cpu.conf"))].concat();
    let gateway = environment(&read("nats-rerank-gateway.service"));
    for (environment, settings) in [(&gpu, "worker.toml"), (&cpu, "worker.toml"), (&gateway, "gateway.toml")] {
        let checked = config(&["check"], environment, settings);
        assert!(checked.status.success(), "{settings}: {checked:?}");
    }
    assert_eq!(value(&gpu, "worker.toml", "/model/device/value"), "cuda");
    assert_eq!(value(&cpu, "worker.toml", "/model/device/value"), "cpu");
    assert_eq!(value(&gpu, "worker.toml", "/health/listen/value"), "127.0.0.1:9460");
    // A name that the program does not know is an error, so the check above has looked at them.
    let wrong = vec![("RERANK_MODEL__DEVICES".to_owned(), "cpu".to_owned())];
    assert_eq!(config(&["check"], &wrong, "worker.toml").status.code(), Some(64));
}

/// Exit codes and times that the units rely on.
#[test]
fn the_units_fit_the_program() {
    let worker = read("nats-rerank@.service");
    let gateway = read("nats-rerank-gateway.service");
    let grace_s = nats_rerank::config::Config::default().shutdown.grace.as_secs();
    for (unit, beside_s) in [(&worker, 15), (&gateway, 5)] {
        for line in [
            "Type=notify",
            "RestartPreventExitStatus=64",
            "Restart=on-failure",
            "LimitCORE=0",
        ] {
            assert!(unit.lines().any(|other| other == line), "{line}");
        }
        let stop = format!("TimeoutStopSec={}", grace_s + beside_s);
        assert!(unit.lines().any(|line| line == stop), "{stop}");
    }
    assert!(worker.lines().any(|line| line == "SuccessExitStatus=143 130"));
}
