//! What a run was measured on.

use serde::{Deserialize, Serialize};

/// The machine of the *sender*; the workers may be elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Machine {
    /// Cores that this process may use.
    pub(super) cores: usize,
    pub(super) cpu: String,
    pub(super) os: String,
}

impl Machine {
    /// This one. What cannot be found out is `unknown`.
    pub(super) fn here() -> Machine {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let cpu = value(&read("/proc/cpuinfo"), "model name", ':').or_else(apple_cpu);
        let system = value(&read("/etc/os-release"), "PRETTY_NAME", '=');
        Machine {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu: cpu.unwrap_or_else(|| "unknown".to_owned()),
            os: format!(
                "{}, {}",
                system.unwrap_or_else(|| std::env::consts::OS.to_owned()),
                std::env::consts::ARCH
            ),
        }
    }
}

/// The first value of this key in lines of keys and values.
fn value(text: &str, key: &str, separator: char) -> Option<String> {
    text.lines()
        .filter_map(|line| line.split_once(separator))
        .find(|(name, _)| name.trim() == key)
        .map(|(_, value)| value.trim().trim_matches('"').to_owned())
}

#[cfg(target_os = "macos")]
fn apple_cpu() -> Option<String> {
    let output = std::process::Command::new("/usr/sbin/sysctl")
        .args(["-n", "machdep.cpu.brand_string"])
        .output()
        .ok()?;
    let name = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (!name.is_empty()).then_some(name)
}

#[cfg(not(target_os = "macos"))]
fn apple_cpu() -> Option<String> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_are_read() {
        let cpuinfo = "processor\t: 0\nmodel name\t: Some CPU @ 2.0GHz\nprocessor\t: 1\nmodel name\t: Another\n";
        assert_eq!(value(cpuinfo, "model name", ':').as_deref(), Some("Some CPU @ 2.0GHz"));
        let release = "NAME=\"Debian\"\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n";
        assert_eq!(
            value(release, "PRETTY_NAME", '=').as_deref(),
            Some("Debian GNU/Linux 12")
        );
        assert_eq!(value("", "PRETTY_NAME", '='), None);
    }

    #[test]
    fn this_machine_has_cores() {
        assert!(Machine::here().cores >= 1);
    }
}
