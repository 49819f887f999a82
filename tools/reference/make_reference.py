"""Makes the small random checkpoints of tests/reference and the scores that transformers gives for them.

    make reference            # makes the venv of requirements.txt, then runs this

The Rust tests hold the engine to these figures. Every checkpoint is random, seeded, and scaled so that its logits
spread over a few units and its attention is far from uniform: with the usual initial range of 0.02 every pair
would score the same and a wrong engine would pass.

What is checked here, so that the reference itself can be trusted:
* the folder's tokenizer.json alone (what a Rust worker reads) gives the ids that transformers gives;
* a pair alone scores as it does in padded batches (1e-5);
* sentence-transformers' CrossEncoder opens the folder as it is and gives the same scores, activation included.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the trainers count the same way each time
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import sentence_transformers
import sentencepiece
import tokenizers
import torch
import transformers
from sentence_transformers import CrossEncoder
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

import corpus

ROOT = Path(__file__).resolve().parents[2]
IDENTITY = "torch.nn.modules.linear.Identity"
SIGMOID = "torch.nn.modules.activation.Sigmoid"
FAIRSEQ_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
FILE_BYTES_MAX = 1_000_000
FOLDER_BYTES_MAX = 8_000_000


# --- tokenizers ------------------------------------------------------------------------------------------------------


def wordpiece(vocab_size: int, lower: bool, length_max: int):
    """BERT's WordPiece, its vocabulary counted over the corpus.

    The vocabulary is the 200 commonest characters (so that some are unknown), each alone and as a continuation, then the
    beginnings and inner parts of words that save the most characters. (The tokenizers library's own trainer gives
    another vocabulary at each run.)
    """
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    normalizer, splitter = normalizers.BertNormalizer(lowercase=lower), pre_tokenizers.BertPreTokenizer()
    words = [word for line in corpus.TRAINING for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(line))]
    characters, parts = collections.Counter("".join(words)), collections.Counter()
    for word in words:
        for start in range(len(word)):
            for end in range(start + 2, min(len(word), start + 9) + 1):
                parts["##" * (start > 0) + word[start:end]] += end - start - 1

    def commonest(counts: collections.Counter, count: int) -> list[str]:
        return [item for item, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:count]]

    kept = commonest(characters, 200)
    vocab = special + kept + ["##" + character for character in kept]
    known = set(kept)
    whole = collections.Counter({part: saved for part, saved in parts.items() if known.issuperset(part.removeprefix("##"))})
    vocab += commonest(whole, vocab_size - len(vocab))
    return transformers.BertTokenizer(vocab={piece: i for i, piece in enumerate(vocab)}, do_lower_case=lower, model_max_length=length_max)


def byte_bpe(vocab_size: int, length_max: int):
    """RoBERTa's byte-level BPE."""
    base = Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1, special_tokens=FAIRSEQ_SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    base.train_from_iterator(corpus.TRAINING, trainer)
    model = json.loads(base.to_str())["model"]
    vocab = model["vocab"] | {"<mask>": len(model["vocab"])}
    return transformers.RobertaTokenizer(vocab=vocab, merges=[tuple(m) for m in model["merges"]], model_max_length=length_max)


def unigram_pieces(vocab_size: int) -> tuple[list[tuple[str, float]], bytes]:
    """A SentencePiece unigram model trained on the corpus: its pieces, and its normalizer's compiled map."""
    from sentencepiece import sentencepiece_model_pb2

    with tempfile.TemporaryDirectory() as folder:
        prefix = os.path.join(folder, "spm")
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(corpus.TRAINING * 3), model_prefix=prefix, vocab_size=vocab_size, model_type="unigram",
            normalization_rule_name="nmt_nfkc", character_coverage=0.98, hard_vocab_limit=False, num_threads=1, minloglevel=2,
        )
        proto = sentencepiece_model_pb2.ModelProto()
        proto.ParseFromString(Path(prefix + ".model").read_bytes())
    pieces = [(p.piece, p.score) for p in proto.pieces if p.piece not in ("<unk>", "<s>", "</s>")]
    return pieces, proto.normalizer_spec.precompiled_charsmap


def unigram_xlmr(vocab_size: int, length_max: int):
    """XLM-R's tokenizer with the normalizer map that real checkpoints carry; its ids follow fairseq's order."""
    pieces, charsmap = unigram_pieces(vocab_size)
    vocab = [(token, 0.0) for token in FAIRSEQ_SPECIAL] + pieces + [("<mask>", 0.0)]
    return transformers.XLMRobertaTokenizer(vocab=vocab, _spm_precompiled_charsmap=charsmap, model_max_length=length_max)


def unigram_camembert(vocab_size: int, length_max: int):
    """CamemBERT's: five special pieces before the vocabulary proper, `<unk>` at 3 is not where XLM-R has its own."""
    pieces, charsmap = unigram_pieces(vocab_size)
    head = [("<s>NOTUSED", 0.0), ("<pad>", 0.0), ("</s>NOTUSED", 0.0), ("<unk>", 0.0), ("<unk>NOTUSED", -100.0), ("<s>", 0.0), ("</s>", 0.0)]
    vocab = head + pieces + [("<mask>", 0.0)]
    return transformers.CamembertTokenizer(vocab=vocab, _spm_precompiled_charsmap=charsmap, model_max_length=length_max)


def unigram_generic(vocab_size: int, length_max: int):
    """The same algorithm put together by hand: an NFKC normalizer, a mask token first, and no class of its own."""
    pieces, _ = unigram_pieces(vocab_size)
    base = Tokenizer(models.Unigram([(token, 0.0) for token in FAIRSEQ_SPECIAL + ["<mask>"]] + pieces, unk_id=3))
    base.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")])
    base.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    ends = [("<s>", base.token_to_id("<s>")), ("</s>", base.token_to_id("</s>"))]
    base.post_processor = processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=ends)
    names = dict(bos_token="<s>", eos_token="</s>", sep_token="</s>", cls_token="<s>", unk_token="<unk>", pad_token="<pad>", mask_token="<mask>")
    inputs = ["input_ids", "attention_mask"]
    return transformers.PreTrainedTokenizerFast(tokenizer_object=base, model_max_length=length_max, model_input_names=inputs, **names)


# --- checkpoints -----------------------------------------------------------------------------------------------------


@dataclass
class Checkpoint:
    """One folder of tests/reference: how its tokenizer and its configuration are made."""

    name: str
    model: type
    config: type
    tokenizer: Callable
    seed: int
    settings: dict
    logits_std: float = 1.0
    perturbed: bool = False
    stored_as: torch.dtype = torch.float32
    extra_config: dict = field(default_factory=dict)
    tokenizer_json_extra: dict = field(default_factory=dict)


def shape(hidden, layers, heads, intermediate, positions, **more):
    return dict(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=intermediate,
        max_position_embeddings=positions, num_labels=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **more,
    )


BERT = (transformers.BertForSequenceClassification, transformers.BertConfig)
ROBERTA = (transformers.RobertaForSequenceClassification, transformers.RobertaConfig)
XLMR = (transformers.XLMRobertaForSequenceClassification, transformers.XLMRobertaConfig)
CAMEMBERT = (transformers.CamembertForSequenceClassification, transformers.CamembertConfig)
FAIRSEQ_IDS = dict(pad_token_id=1, bos_token_id=0, eos_token_id=2, type_vocab_size=1, layer_norm_eps=1e-5)

CHECKPOINTS = [
    # The plain case: exact GELU, no activation named (so Sigmoid); the position table, not the tokenizer, is the limit.
    Checkpoint("bert-small", *BERT, lambda: wordpiece(1200, True, 512), 1, shape(64, 2, 4, 128, 128)),
    # Nothing a power of two, cased, tanh GELU, stored as fp16 (as many published checkpoints are), the older activation key.
    Checkpoint(
        "bert-odd", *BERT, lambda: wordpiece(997, False, 64), 2, shape(60, 3, 5, 130, 77, hidden_act="gelu_new"),
        stored_as=torch.float16, extra_config={"sbert_ce_default_activation_function": IDENTITY},
    ),
    # Every bias and layer norm random, an epsilon large enough to be missed, ReLU, and a tokenizer.json that was saved
    # with a truncation and a padding of its own: what a loader must override.
    Checkpoint(
        "bert-perturbed", *BERT, lambda: wordpiece(800, True, 64), 3, shape(64, 2, 2, 96, 64, hidden_act="relu", layer_norm_eps=1e-3),
        perturbed=True, extra_config={"sentence_transformers": {"activation_fn": IDENTITY, "version": "4.0.0"}},
        tokenizer_json_extra={
            "truncation": {"direction": "Right", "max_length": 20, "strategy": "LongestFirst", "stride": 0},
            "padding": {"strategy": {"Fixed": 20}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
        },
    ),
    # No limit in the tokenizer at all (transformers writes 1e30): the limit is the positions less the offset of 2.
    Checkpoint(
        "roberta-small", *ROBERTA, lambda: byte_bpe(1000, int(1e30)), 4, shape(64, 2, 4, 128, 98, **FAIRSEQ_IDS),
        extra_config={"sentence_transformers": {"activation_fn": SIGMOID, "version": "5.0.0"}},
    ),
    Checkpoint("xlmr-small", *XLMR, lambda: unigram_xlmr(900, 64), 5, shape(64, 2, 4, 128, 130, **FAIRSEQ_IDS)),
    Checkpoint(
        "xlmr-perturbed", *XLMR, lambda: unigram_generic(701, 96), 6, shape(72, 3, 6, 100, 98, **(FAIRSEQ_IDS | {"layer_norm_eps": 1e-3})),
        perturbed=True, extra_config={"sbert_ce_default_activation_function": IDENTITY},
    ),
    # Stored as bf16, so the loader's conversions are all covered.
    Checkpoint(
        "camembert-small", *CAMEMBERT, lambda: unigram_camembert(800, 126), 7,
        shape(48, 2, 3, 96, 128, **(FAIRSEQ_IDS | {"bos_token_id": 5, "eos_token_id": 6})), stored_as=torch.bfloat16,
    ),
]


def fill(model: torch.nn.Module, seed: int, perturbed: bool) -> None:
    """Random weights that make the logits depend on every part of the model."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if "LayerNorm.weight" in name:
                parameter.copy_(1 + 0.3 * noise if perturbed else torch.ones_like(noise))
            elif name.endswith("bias"):
                parameter.copy_((0.3 if perturbed else 0.05) * noise)
            elif "embeddings" in name:
                parameter.copy_(0.5 * noise)  # the padding row too: "<pad>" can stand in a text
            else:
                # A strong attention output against the residual, so that the first token's state depends on the text:
                # otherwise the head must be scaled up so far that it shows fp32 rounding in place of the model.
                # And a strong feed-forward part, so that one GELU in place of another shows.
                gain = 3.0 if "value" in name or "attention.output" in name else 1.0 if "attention" in name else 1.7 if "layer." in name else 0.7
                parameter.copy_(noise * gain / parameter.shape[1] ** 0.5)


def score(model, tokenizer, pairs: list[tuple[str, str]], length_max: int, batch: int) -> torch.Tensor:
    """fp32 logits of pairs, `batch` at a time, padded to the longest of the batch."""
    rows = []
    for start in range(0, len(pairs), batch):
        queries, documents = zip(*pairs[start : start + batch])
        inputs = tokenizer(list(queries), list(documents), padding=True, truncation=True, max_length=length_max, return_tensors="pt")
        with torch.inference_mode():
            rows.append(model(**inputs).logits.float().squeeze(-1))
    return torch.cat(rows)


def rescale_head(model, tokenizer, length_max: int, logits_std: float) -> None:
    """Scale and centre the last layer, so that the logits of the cases have the wanted spread about zero."""
    last = model.classifier if isinstance(model.classifier, torch.nn.Linear) else model.classifier.out_proj
    pairs = [(query, document) for name, query, documents in corpus.cases() if name != "many_documents" for document in documents]
    logits = score(model, tokenizer, pairs, length_max, 16)
    with torch.no_grad():
        factor = logits_std / logits.std()
        last.weight.mul_(factor)
        last.bias.copy_((last.bias - logits.mean()) * factor)


def length_limit(tokenizer, config) -> int:
    """min(what the tokenizer says, positions less the offset of the RoBERTa family)."""
    offset = 0 if config.model_type == "bert" else config.pad_token_id + 1
    return min(tokenizer.model_max_length, config.max_position_embeddings - offset)


def make(checkpoint: Checkpoint, folder: Path) -> None:
    """Write the checkpoint's files."""
    tokenizer = checkpoint.tokenizer()
    config = checkpoint.config(vocab_size=len(tokenizer), **checkpoint.settings)
    torch.manual_seed(checkpoint.seed)
    model = checkpoint.model(config).eval()
    fill(model, checkpoint.seed, checkpoint.perturbed)
    rescale_head(model, tokenizer, length_limit(tokenizer, config), checkpoint.logits_std)
    if folder.exists():
        shutil.rmtree(folder)
    model.to(checkpoint.stored_as).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    edit_json(folder / "config.json", checkpoint.extra_config)
    edit_json(folder / "tokenizer.json", checkpoint.tokenizer_json_extra)
    (folder / "model.safetensors").chmod(0o644)
    for unwanted in ("special_tokens_map.json", "generation_config.json"):
        (folder / unwanted).unlink(missing_ok=True)


def edit_json(path: Path, extra: dict) -> None:
    if extra:
        path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | extra, ensure_ascii=False, indent=2) + "\n", "utf-8")


# --- scores ----------------------------------------------------------------------------------------------------------


def reference(folder: Path) -> dict:
    """Scores of every case for the checkpoint in `folder`, by transformers, with the cross-checks of this file's head."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    length_max = length_limit(tokenizer, model.config)
    plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
    plain.no_padding()
    plain.enable_truncation(length_max)
    peer = CrossEncoder(str(folder), device="cpu", max_length=length_max, local_files_only=True, model_kwargs={"dtype": torch.float32})

    cases, worst_batch, worst_peer, spread = [], 0.0, 0.0, []
    for name, query, documents in corpus.cases():
        pairs = [(query, document) for document in documents]
        alone = score(model, tokenizer, pairs, length_max, 1)
        for batch in (7, 32):
            worst_batch = max(worst_batch, (score(model, tokenizer, pairs, length_max, batch) - alone).abs().max().item())
        activated = peer.activation_fn(alone)
        by_peer = torch.tensor(np.asarray(peer.predict(pairs, batch_size=16, show_progress_bar=False)))
        worst_peer = max(worst_peer, (by_peer - activated).abs().max().item())
        # In lists of one: given two plain strings, transformers drops an empty document and encodes the query alone.
        ids = [tokenizer([q], [d], truncation=True, max_length=length_max)["input_ids"][0] for q, d in pairs]
        for (q, d), expected in zip(pairs, ids):
            got = plain.encode(q, d).ids
            assert got == expected, f"{folder.name}/{name}: tokenizer.json alone gives other ids for {d[:40]!r}: {got[:40]} not {expected[:40]}"
        case = {
            "name": name, "query": query, "documents": documents,
            "logits": figures(alone), "scores": figures(activated), "token_counts": [len(i) for i in ids],
        }
        if len(documents) <= 8:
            case["ids"] = ids
        cases.append(case)
        spread.append(alone)
    logits = torch.cat(spread)
    assert worst_batch < 1e-5, f"{folder.name}: a pair's score depends on its batch by {worst_batch}"
    assert worst_peer < 1e-5, f"{folder.name}: CrossEncoder differs by {worst_peer}"
    assert logits.isfinite().all() and 0.7 < logits[:-500].std() < 4, f"{folder.name}: logits do not spread: std {logits.std()}"
    check_sensitivity(folder, tokenizer, length_max, model.config)
    activation = type(peer.activation_fn).__name__
    print(f"{folder.name}: length_max {length_max}, {activation}, logits std {logits.std():.2f}, batch {worst_batch:.1e}, CrossEncoder {worst_peer:.1e}")
    return {
        "transformers": transformers.__version__, "torch": torch.__version__.split("+")[0],
        "sentence_transformers": sentence_transformers.__version__, "tokenizers": tokenizers.__version__,
        "length_max": length_max, "activation": activation, "cases": cases,
    }


def check_sensitivity(folder: Path, tokenizer, length_max: int, config) -> None:
    """The scores must show the mistakes that an engine is likely to make, well above the tests' 1e-4."""
    pairs = [(query, document) for name, query, documents in corpus.cases() if name in ("plain", "cjk", "long_document") for document in documents]

    def with_config(**changes) -> torch.Tensor:
        changed = transformers.AutoConfig.from_pretrained(folder, **changes)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, config=changed, dtype=torch.float32).eval()
        return score(model, tokenizer, pairs, length_max, 1)

    right = with_config()
    wrong = {"hidden_act": "gelu" if config.hidden_act == "gelu_new" else "gelu_new"}
    if config.layer_norm_eps > 1e-4:
        wrong["layer_norm_eps"] = 1e-5
    for key, value in wrong.items():
        difference = (with_config(**{key: value}) - right).abs().max().item()
        assert difference > 3e-4, f"{folder.name}: {key}={value} would go unseen: it moves the scores by {difference}"


def figures(values: torch.Tensor) -> list[float]:
    """fp32 values in the fewest digits that give the same fp32 back."""
    return [float(np.format_float_scientific(np.float32(v), unique=True)) for v in values.tolist()]


def write_scores(folder: Path, result: dict) -> None:
    lines = [f'{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}' for key, value in result.items() if key != "cases"]
    cases = ",\n  ".join(json.dumps(case, ensure_ascii=False) for case in result["cases"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scores.json").write_text("{" + ",\n ".join(lines) + ',\n "cases": [\n  ' + cases + "\n]}\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "tests" / "reference")
    parser.add_argument("--cached", type=Path, default=ROOT / ".checkpoints", help="folder that holds minilm-l6-seeded (tools/setup makes it)")
    parser.add_argument("--only", help="make this one checkpoint")
    arguments = parser.parse_args()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)  # one order of additions
    for checkpoint in CHECKPOINTS:
        if arguments.only in (None, checkpoint.name):
            folder = arguments.out / checkpoint.name
            make(checkpoint, folder)
            write_scores(folder, reference(folder))
    seeded = arguments.cached / "minilm-l6-seeded"
    if arguments.only in (None, seeded.name):
        if not seeded.is_dir():
            sys.exit(f"{seeded} is missing: run `make setup`")
        write_scores(arguments.out / seeded.name, reference(seeded))
    files = [path for path in arguments.out.rglob("*") if path.is_file()]
    for path in files:
        assert path.stat().st_size < FILE_BYTES_MAX, f"{path} is too large: {path.stat().st_size} bytes"
    total = sum(path.stat().st_size for path in files)
    assert total < FOLDER_BYTES_MAX, f"{total} bytes in all"
    print(f"{len(files)} files, {total / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
