//! What a config.json may name: architectures and activations.

use crate::protocol::ScoreActivation;

/// The families of encoder that can be served, each with a head of one label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// BERT: pooler and classifier, two token types, positions from 0.
    Bert,
    /// RoBERTa: two-layer head without a pooler, positions from `pad_token_id + 1`.
    Roberta,
    /// XLM-RoBERTa: RoBERTa with another vocabulary.
    XlmRoberta,
    /// CamemBERT: RoBERTa with a French vocabulary.
    Camembert,
}

impl Architecture {
    /// All of them.
    pub const ALL: [Architecture; 4] = [
        Architecture::Bert,
        Architecture::Roberta,
        Architecture::XlmRoberta,
        Architecture::Camembert,
    ];

    /// The class that config.json names under `architectures`.
    pub fn name(self) -> &'static str {
        match self {
            Architecture::Bert => "BertForSequenceClassification",
            Architecture::Roberta => "RobertaForSequenceClassification",
            Architecture::XlmRoberta => "XLMRobertaForSequenceClassification",
            Architecture::Camembert => "CamembertForSequenceClassification",
        }
    }

    /// What config.json names under `model_type`.
    pub fn model_type(self) -> &'static str {
        match self {
            Architecture::Bert => "bert",
            Architecture::Roberta => "roberta",
            Architecture::XlmRoberta => "xlm-roberta",
            Architecture::Camembert => "camembert",
        }
    }

    /// What the names of the encoder's tensors begin with.
    pub fn prefix(self) -> &'static str {
        match self {
            Architecture::Bert => "bert.",
            // CamemBERT's encoder is called `roberta` too.
            Architecture::Roberta | Architecture::XlmRoberta | Architecture::Camembert => "roberta.",
        }
    }

    /// RoBERTa and what descends from it: one head, one way of counting positions, token types always 0.
    pub fn is_roberta_family(self) -> bool {
        !matches!(self, Architecture::Bert)
    }

    /// The supported classes, for messages.
    pub fn supported() -> String {
        Self::ALL.map(Architecture::name).join(", ")
    }
}

/// The activation inside the feed-forward layers, computed exactly as the checkpoint was trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HiddenActivation {
    /// x·Φ(x) by the error function.
    Gelu,
    /// The tanh approximation of GELU; config.json knows it by five names.
    GeluTanh,
    /// max(0, x).
    Relu,
    /// x·sigmoid(x).
    Silu,
    /// tanh(x).
    Tanh,
}

impl HiddenActivation {
    pub(super) const NAMES: &'static [(&'static str, HiddenActivation)] = &[
        ("gelu", HiddenActivation::Gelu),
        ("gelu_python", HiddenActivation::Gelu),
        ("gelu_new", HiddenActivation::GeluTanh),
        ("gelu_fast", HiddenActivation::GeluTanh),
        ("gelu_accurate", HiddenActivation::GeluTanh),
        ("gelu_pytorch_tanh", HiddenActivation::GeluTanh),
        ("gelu_python_tanh", HiddenActivation::GeluTanh),
        ("relu", HiddenActivation::Relu),
        ("silu", HiddenActivation::Silu),
        ("swish", HiddenActivation::Silu),
        ("tanh", HiddenActivation::Tanh),
    ];

    /// The name that we show for it.
    pub fn name(self) -> &'static str {
        match self {
            HiddenActivation::Gelu => "gelu",
            HiddenActivation::GeluTanh => "gelu_tanh",
            HiddenActivation::Relu => "relu",
            HiddenActivation::Silu => "silu",
            HiddenActivation::Tanh => "tanh",
        }
    }
}

/// The score's activation by the dotted path of the Python class, with or without the `()` that some configurations carry.
pub(super) fn score_activation_from_python(path: &str) -> Option<ScoreActivation> {
    let path = path.trim().trim_end_matches("()");
    if !path.starts_with("torch.") {
        return None;
    }
    match path.rsplit('.').next()? {
        "Identity" => Some(ScoreActivation::Identity),
        "Sigmoid" | "sigmoid" => Some(ScoreActivation::Sigmoid),
        "Tanh" | "tanh" => Some(ScoreActivation::Tanh),
        _ => None,
    }
}
