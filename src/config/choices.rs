//! Settings of the program itself with a fixed set of values.

use crate::choices::words;

words! {
    /// How the log is written (`log.format`).
    LogFormat, "text, json", {
        /// Lines for people, coloured on a terminal.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}

words! {
    /// What an HTTP caller gets when there is no ranking in time (`gateway.on_failure`).
    OnFailure, "ann, error", {
        /// 200, and the documents in the order they came in.
        Ann = "ann",
        /// 503.
        Error = "error",
    }
}

words! {
    /// What stands for scores where there is no ranking (`gateway.fallback_scores`).
    FallbackScores, "descending, zero", {
        /// Falling from 1.
        Descending = "descending",
        /// 0.
        Zero = "zero",
    }
}

words! {
    /// A named set of settings that comes with the program (`--profile`, `RERANK_PROFILE`).
    Profile, "dev, production, minimal, gpu", {
        /// A developer's machine.
        Dev = "dev",
        /// A CPU fleet behind a search page.
        Production = "production",
        /// A machine of 512 MB.
        Minimal = "minimal",
        /// A worker that owns a GPU.
        Gpu = "gpu",
    }
}

impl Profile {
    /// The profile's file, part of the program so that it runs from any folder.
    pub(super) fn toml(self) -> &'static str {
        match self {
            Profile::Dev => include_str!("../../config/dev.toml"),
            Profile::Production => include_str!("../../config/production.toml"),
            Profile::Minimal => include_str!("../../config/minimal.toml"),
            Profile::Gpu => include_str!("../../config/gpu.toml"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_are_written() {
        for &value in LogFormat::ALL {
            assert_eq!(value.as_str().parse(), Ok(value));
        }
        for &value in OnFailure::ALL {
            assert_eq!(value.as_str().parse(), Ok(value));
        }
        for &value in Profile::ALL {
            assert_eq!(value.as_str().parse(), Ok(value));
        }
        let error = "prod".parse::<Profile>().map_err(|error| error.to_string());
        assert_eq!(error, Err("expects one of dev, production, minimal, gpu".to_owned()));
    }

    #[test]
    fn the_allowed_words_are_all_of_them() {
        fn joined<T: ToString>(all: &[T]) -> String {
            all.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
        }
        assert_eq!(joined(LogFormat::ALL), LogFormat::ALLOWED);
        assert_eq!(joined(OnFailure::ALL), OnFailure::ALLOWED);
        assert_eq!(joined(Profile::ALL), Profile::ALLOWED);
    }
}
