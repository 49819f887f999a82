//! The dates and times of a TOML file.
//!
//! `revision = 2026-01-31` is no text in TOML, and the `config` crate makes one of it without a word: so another time of day,
//! or a number of the wrong length, would be noticed by nobody. The file is parsed a second time to find them.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

/// By full name of the key, each date or time that stands there or in a list there. None of a text that does not parse: the
/// first parser says why.
pub(super) fn dates(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    if let Ok(table) = DeTable::parse(text) {
        collect("", table.get_ref(), &mut found);
    }
    found
}

/// As deep as the parser lets tables nest, which it bounds.
fn collect(section: &str, table: &DeTable<'_>, found: &mut BTreeMap<String, String>) {
    for (key, value) in table {
        let name = match section {
            "" => key.get_ref().to_string(),
            _ => format!("{section}.{}", key.get_ref()),
        };
        match value.get_ref() {
            DeValue::Table(inner) => collect(&name, inner, found),
            value => {
                if let Some(date) = first_date(value) {
                    found.insert(name, date);
                }
            }
        }
    }
}

fn first_date(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::Datetime(date) => Some(date.to_string()),
        DeValue::Array(items) => items.iter().find_map(|item| first_date(item.get_ref())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_found_wherever_they_stand() {
        let text = "a = 2026-01-31\nb = \"2026-01-31\"\n[c]\nd = 07:32:00\ne = [\"x\", 1979-05-27T07:32:00Z]\nf = { g = 2026-01-31 07:32:00 }\n";
        let found = dates(text);
        let names: Vec<&str> = found.keys().map(String::as_str).collect();
        assert_eq!(names, ["a", "c.d", "c.e", "c.f.g"]);
        assert_eq!(found["a"], "2026-01-31");
        assert!(dates("a = ").is_empty());
    }
}
