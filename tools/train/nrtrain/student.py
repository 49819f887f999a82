"""The student: building it from the teacher, and exporting it as a standard checkpoint."""

import json

import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertForSequenceClassification, BertModel

from . import settings as S, sources, vocab

CONFIG = dict(
    hidden_size=384, num_attention_heads=12, intermediate_size=1536, hidden_act="gelu", layer_norm_eps=1e-12,
    max_position_embeddings=512, type_vocab_size=2, pad_token_id=0, num_labels=1,
    hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)


def build(kept):
    """Layers and embeddings of the teacher, pruned; a new one-label head. Word embeddings frozen."""
    torch.manual_seed(S.SEED)
    teacher = BertModel.from_pretrained(sources.teacher_dir())
    model = BertForSequenceClassification(
        BertConfig(vocab_size=len(kept), num_hidden_layers=len(S.STUDENT_LAYERS), **CONFIG))
    with torch.no_grad():
        e, t = model.bert.embeddings, teacher.embeddings
        e.word_embeddings.weight.copy_(t.word_embeddings.weight[[i for _, i in kept]])
        e.position_embeddings.load_state_dict(t.position_embeddings.state_dict())
        e.token_type_embeddings.load_state_dict(t.token_type_embeddings.state_dict())
        e.LayerNorm.load_state_dict(t.LayerNorm.state_dict())
        for mine, theirs in enumerate(S.STUDENT_LAYERS):
            model.bert.encoder.layer[mine].load_state_dict(teacher.encoder.layer[theirs].state_dict())
        model.bert.pooler.load_state_dict(teacher.pooler.state_dict())
    e.word_embeddings.weight.requires_grad = False
    e.position_embeddings.weight.requires_grad = False
    return model


def export(model, kept, folder=S.MODEL_OUT):
    """Standard files: config, tokenizer, fp16 weights. Returns the total size in bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().to(torch.float16).contiguous() for k, v in model.state_dict().items() if "position_ids" not in k}
    tmp = folder / "model.safetensors.tmp"
    save_file(state, tmp, metadata={"format": "pt"})
    tmp.chmod(0o644)
    tmp.rename(folder / "model.safetensors")
    config = {
        "architectures": ["BertForSequenceClassification"], "model_type": "bert", "vocab_size": len(kept),
        "num_hidden_layers": len(S.STUDENT_LAYERS), **{k: v for k, v in CONFIG.items() if k != "num_labels"},
        "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "initializer_range": 0.02,
        "position_embedding_type": "absolute", "torch_dtype": "float32",  # what to compute in; the stored weights are fp16
        "sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"},
    }
    tokens = {f"{n}_token": f"[{n.upper()}]" for n in ("cls", "sep", "pad", "unk", "mask")}
    tokenizer_config = {
        "tokenizer_class": "BertTokenizer", "do_lower_case": True, "strip_accents": None,
        "tokenize_chinese_chars": True, "model_max_length": 512, **tokens,
    }
    (folder / "tokenizer.json").write_text(vocab.tokenizer_json(kept), encoding="utf-8")
    for name, value in (("config", config), ("tokenizer_config", tokenizer_config), ("special_tokens_map", tokens)):
        (folder / f"{name}.json").write_text(json.dumps(value, indent=2) + "\n")
    return sum(f.stat().st_size for f in folder.iterdir())
