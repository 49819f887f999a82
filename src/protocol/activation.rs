//! What lies between a logit and a score.

/// What turns the model's logit into the score of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScoreActivation {
    /// The logit itself.
    Identity,
    /// 1 / (1 + e⁻ˣ): what sentence-transformers takes when a one-label checkpoint names nothing.
    Sigmoid,
    /// tanh(x).
    Tanh,
}

impl ScoreActivation {
    /// Every activation.
    pub const ALL: [ScoreActivation; 3] = [
        ScoreActivation::Identity,
        ScoreActivation::Sigmoid,
        ScoreActivation::Tanh,
    ];

    /// The score for a logit. Monotone, so it never changes an order.
    pub fn apply(self, logit: f32) -> f32 {
        match self {
            ScoreActivation::Identity => logit,
            ScoreActivation::Sigmoid => 1.0 / (1.0 + (-logit).exp()),
            ScoreActivation::Tanh => logit.tanh(),
        }
    }

    /// Its name in the header [`ACTIVATION`](super::headers::ACTIVATION), and for people.
    pub fn name(self) -> &'static str {
        match self {
            ScoreActivation::Identity => "identity",
            ScoreActivation::Sigmoid => "sigmoid",
            ScoreActivation::Tanh => "tanh",
        }
    }

    /// The activation of this name.
    pub fn from_name(name: &str) -> Option<ScoreActivation> {
        Self::ALL.into_iter().find(|activation| activation.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back() {
        for activation in ScoreActivation::ALL {
            assert_eq!(ScoreActivation::from_name(activation.name()), Some(activation));
        }
        assert_eq!(ScoreActivation::from_name("softmax"), None);
    }
}
