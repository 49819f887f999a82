//! Whether reranking is switched on: by the builder, by the environment, and by the live switch.

use tokio::sync::watch;

use super::BuildError;
use crate::nats::Sessions;
use crate::switch::{Bucket, parse_switch, watch_switch};

/// The variable of the environment, the worker's too.
pub(super) const VARIABLE: &str = "RERANK_ENABLED";

/// On or off at this moment.
#[derive(Debug)]
pub(super) struct Enabled {
    now: watch::Receiver<bool>,
    /// Without a bucket nobody else keeps the switch as it is.
    _fixed: Option<watch::Sender<bool>>,
}

impl Enabled {
    /// `configured` holds, or the bucket's key while there is one.
    pub(super) fn new(configured: bool, bucket: Option<(Sessions, Bucket)>) -> Enabled {
        match bucket {
            Some((sessions, bucket)) => Enabled {
                now: watch_switch(sessions, bucket, configured),
                _fixed: None,
            },
            None => {
                let (sender, now) = watch::channel(configured);
                Enabled {
                    now,
                    _fixed: Some(sender),
                }
            }
        }
    }

    pub(super) fn is_on(&self) -> bool {
        *self.now.borrow()
    }
}

/// What holds unless the live switch says otherwise: the environment wins over the program, so that whoever runs a
/// program can switch it off.
pub(super) fn configured(by_program: bool, variable: Option<&str>) -> Result<bool, BuildError> {
    match variable {
        // An empty variable is as good as none, as for the worker.
        None | Some("") => Ok(by_program),
        Some(text) => parse_switch(text)
            .ok_or_else(|| BuildError::invalid(VARIABLE, "expected true or false (or 1, yes, on, 0, no, off)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_wins_over_the_program() {
        for by_program in [true, false] {
            assert_eq!(configured(by_program, None).unwrap(), by_program);
            assert_eq!(configured(by_program, Some("")).unwrap(), by_program);
            assert!(!configured(by_program, Some("false")).unwrap());
            assert!(configured(by_program, Some(" On ")).unwrap());
        }
    }

    #[test]
    fn a_variable_that_says_neither_is_told_without_its_value() {
        let error = configured(true, Some("hush")).expect_err("not a switch").to_string();
        assert!(error.contains(VARIABLE) && !error.contains("hush"), "{error}");
    }
}
