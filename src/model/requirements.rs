//! `requirements` of config_sentence_transformers.json: which versions of which packages a checkpoint may be scored with.
//!
//! sentence-transformers refuses a checkpoint whose requirements are not met. Scores here are those of the versions below, so the
//! same is asked of these. What cannot be read as a version is passed over, as there.

use serde_json::Value;

use super::error::ModelError;
use super::object::Object;

/// What the scores are held to (tools/reference).
const REPRODUCED: &[(&str, &str)] = &[
    ("sentence-transformers", "6.2.0"),
    ("transformers", "5.24.0"),
    ("torch", "2.11.0"),
    ("tokenizers", "0.23.3"),
    ("safetensors", "0.8.0"),
];

/// Refuses a file whose `requirements` the reproduced versions do not meet.
pub(super) fn check(own: &Object) -> Result<(), ModelError> {
    let Some(Value::Object(requirements)) = own.get("requirements") else {
        return Ok(());
    };
    for (package, requirement) in requirements {
        let specifier = match requirement {
            Value::Object(inner) => inner.get("specifier").and_then(Value::as_str).or(Some("")),
            value => value.as_str(),
        };
        let Some(specifier) = specifier else { continue };
        let name = package.to_ascii_lowercase().replace('_', "-");
        let name = if name == "pytorch" { "torch" } else { &name };
        // The interpreter is none of the checkpoint's arithmetic.
        if name == "python" {
            continue;
        }
        let field = format!("requirements.{package}");
        match REPRODUCED.iter().find(|(known, _)| *known == name) {
            None => {
                return Err(own.refused(
                    &field,
                    "absent: what this package does to scores is not reproduced",
                    requirement,
                ));
            }
            Some((_, version)) if meets(version, specifier) == Some(false) => {
                return Err(own.refused(&field, format!("met by {version}, whose scores these are"), requirement));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Whether a version meets a specifier (PEP 440: comparisons joined by commas); `None` for what is not one.
fn meets(version: &str, specifier: &str) -> Option<bool> {
    let version = numbers(version)?;
    let mut all = true;
    for clause in specifier.split(',').map(str::trim).filter(|clause| !clause.is_empty()) {
        let operators = ["===", "~=", "==", "!=", "<=", ">=", "<", ">"];
        let operator = operators.into_iter().find(|operator| clause.starts_with(operator))?;
        let wanted = clause[operator.len()..].trim();
        let (wanted, prefix) = match wanted.strip_suffix(".*") {
            Some(prefix) => (prefix, true),
            None => (wanted, false),
        };
        let wanted = numbers(wanted)?;
        let begins = |len: usize| (0..len).all(|i| part(&version, i) == part(&wanted, i));
        let order = || {
            let len = version.len().max(wanted.len());
            (0..len)
                .map(|i| part(&version, i).cmp(&part(&wanted, i)))
                .find(|order| order.is_ne())
                .unwrap_or(std::cmp::Ordering::Equal)
        };
        all &= match operator {
            "==" | "===" if prefix => begins(wanted.len()),
            "!=" if prefix => !begins(wanted.len()),
            _ if prefix => return None,
            "==" | "===" => order().is_eq(),
            "!=" => order().is_ne(),
            "<=" => order().is_le(),
            ">=" => order().is_ge(),
            "<" => order().is_lt(),
            ">" => order().is_gt(),
            // `~= 5.4`: at least that, and within 5.
            _ => order().is_ge() && begins(wanted.len().checked_sub(1).filter(|len| *len > 0)?),
        };
    }
    Some(all)
}

fn part(version: &[u64], index: usize) -> u64 {
    version.get(index).copied().unwrap_or_default()
}

/// The release numbers of a version; what follows them (`rc1`, `.dev0`, `+cu130`) is left out.
fn numbers(version: &str) -> Option<Vec<u64>> {
    let end = version
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(version.len());
    let release = version[..end].trim_end_matches('.');
    let release = match version[end..].chars().next() {
        // `5.dev0`: the digits before it are whole.
        None | Some('+' | 'a' | 'b' | 'r' | 'd' | 'p' | '-') => release,
        Some(_) => return None,
    };
    release.split('.').map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specifiers_are_read_as_pip_reads_them() {
        for (specifier, expected) in [
            ("", Some(true)),
            (">=5.15", Some(true)),
            (">=5.24.0,<6", Some(true)),
            (">=5.15,<5.24", Some(false)),
            ("<5", Some(false)),
            ("==5.24", Some(true)),
            ("==5.*", Some(true)),
            ("!=5.24.*", Some(false)),
            ("~=5.4", Some(true)),
            ("~=4.57", Some(false)),
            ("~=5.20.1", Some(false)),
            (">5.24.0", Some(false)),
            (">= 5.0.0rc1", Some(true)),
            ("five", None),
            ("~=5", None),
        ] {
            assert_eq!(meets("5.24.0", specifier), expected, "{specifier}");
        }
    }
}
