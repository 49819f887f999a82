"""Makes the checkpoints of tests/reference/layout: what CrossEncoder saves around the weights, and the scores of `predict`.

    tools/reference/run layout         # makes the venv of requirements.txt, then runs this

Each folder is one trait of the layout (docs/models.md, "The files of a checkpoint"). The folders are saved by
sentence-transformers and transformers; where only an older version writes a key, it is put in afterwards (`edit`).
`layout.json` beside the files holds what the libraries then do with the folder: the tokens of each pair and the scores of
`predict`, or that the folder is one to refuse, and by which word.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import make_reference as made
import sentence_transformers
import tokenizers
import torch
import transformers
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

IDENTITY = torch.nn.Identity()
QUERY = "how do I boil an egg"
LONG = " ".join(["the search engine reads the best candidates slowly"] * 12)
CASES = [
    (QUERY, ["Put it into boiling water for six minutes", "Whales are mammals", "", "Egg [SEP] timer"]),
    ("Machine Learning Übung", [LONG, "Größe\u0007 und\u200b Straße", "unbelievablemisunderstandings " + "x" * 60, "龘 𠀀 naïve"]),
    (LONG, ["short", LONG]),
    ("", ["alone", "  spaced\u00a0out  "]),
    ("[SEP] find: me", ["<s> a </s> b <mask>", "Internationalization  is\treasonable"]),
]


def encoder(folder: Path, kind: str, lower: bool = True, length: int = 64, edit_tokenizer=None, **tokenizer_settings) -> Path:
    """A tiny classifier saved by transformers alone: no file of sentence-transformers."""
    if kind == "bert":
        tokenizer, (model, config), ids = made.wordpiece(460, lower, length), made.BERT, {}
    elif kind == "roberta":
        tokenizer, (model, config), ids = made.byte_bpe(320, length), made.ROBERTA, made.FAIRSEQ_IDS
    else:
        tokenizer, (model, config), ids = made.unigram_xlmr(320, length), made.XLMR, made.FAIRSEQ_IDS
    settings = config(vocab_size=len(tokenizer), **made.shape(16, 1, 2, 32, 80, **ids))
    torch.manual_seed(1)
    network = model(settings).eval()
    made.fill(network, 1, True)
    made.rescale_head(network, tokenizer, length, 1.5)
    shutil.rmtree(folder, ignore_errors=True)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for key, value in tokenizer_settings.items():
        edit(folder, "tokenizer_config.json", {key: value})
    if edit_tokenizer:
        path = folder / "tokenizer.json"
        value = json.loads(path.read_text("utf-8"))
        edit_tokenizer(value)
        path.write_text(json.dumps(value, ensure_ascii=False) + "\n", "utf-8")
    return folder


def cross_encoder(folder: Path, kind: str = "bert", save=None, **settings) -> Path:
    """The same, opened and saved by CrossEncoder with these settings."""
    bare = encoder(folder.with_name(folder.name + ".bare"), kind, **(save or {}))
    model = CrossEncoder(str(bare), device="cpu", local_files_only=True, **settings)
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(str(folder))
    shutil.rmtree(bare)
    return folder


def edit(folder: Path, file: str, change: dict) -> None:
    path = folder / file
    value = json.loads(path.read_text("utf-8")) if path.exists() else {}
    for key, new in change.items():
        if new is None:
            value.pop(key, None)
        else:
            value[key] = new
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", "utf-8")


def pairs_of(model: CrossEncoder, query: str, documents: list[str]) -> tuple[list, list]:
    """What `predict` gives the network for each pair alone, padding left out: ids, and types or null."""
    ids, types = [], []
    prompt = model.prompts.get(model.default_prompt_name) if model.default_prompt_name else None
    for document in documents:
        features = model.preprocess([(query, document)], prompt=prompt)
        ids.append(features["input_ids"][0].tolist())
        types.append(features["token_type_ids"][0].tolist() if "token_type_ids" in features else None)
    return ids, types


def judged(folder: Path, **settings) -> list[dict]:
    """The cases as `predict` scores them."""
    model = CrossEncoder(str(folder), device="cpu", local_files_only=True, model_kwargs={"dtype": torch.float32}, **settings)
    cases = []
    for query, documents in CASES:
        # Alone: a list of pairs of which one is empty is padded, and nothing else changes.
        scores = torch.tensor([float(model.predict([(query, document)])[0]) for document in documents])
        together = torch.tensor(model.predict([(query, document) for document in documents]))
        assert (scores - together).abs().max() < 1e-5, folder.name
        ids, types = pairs_of(model, query, documents)
        cases.append({"query": query, "documents": documents, "ids": ids, "types": types, "scores": made.figures(scores)})
    return cases


def versions() -> dict:
    return {
        "sentence_transformers": sentence_transformers.__version__, "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__, "torch": torch.__version__.split("+")[0],
    }


def write(folder: Path, **result) -> None:
    for unwanted in ("README.md", "special_tokens_map.json", "generation_config.json"):
        (folder / unwanted).unlink(missing_ok=True)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o644)
    (folder / "layout.json").write_text(json.dumps(versions() | result, ensure_ascii=False) + "\n", "utf-8")
    print(folder.name, "refused" if "refused" in result else [round(s, 4) for s in result["cases"][0]["scores"]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=made.ROOT / "tests" / "reference" / "layout")
    out = parser.parse_args().out
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)

    def plain(value):  # XLM-R's map of characters is a third of a megabyte; without one the class has none either
        value["normalizer"] = None

    prompts = {"query": "find: ", "other": "classify this "}

    # K4: before the query, no space added; a special token in it counts as one; it counts for the limit.
    folder = cross_encoder(out / "prompt", prompts=prompts, default_prompt_name="query")
    write(folder, prompt="find: ", cases=judged(folder))
    folder = cross_encoder(out / "prompt-identity", kind="xlmr", save=dict(edit_tokenizer=plain), prompts={"q": "Wa</s>ter<mask> "}, default_prompt_name="q", activation_fn=IDENTITY)
    write(folder, prompt="Wa</s>ter<mask> ", cases=judged(folder))
    # Prompts without a default: nothing is added.
    folder = cross_encoder(out / "prompt-unused", prompts=prompts)
    modules = json.loads((folder / "modules.json").read_text("utf-8"))
    modules[0]["type"] = "sentence_transformers.models.Transformer"  # what versions before 5.4 wrote
    (folder / "modules.json").write_text(json.dumps(modules, indent=2) + "\n", "utf-8")
    edit(folder, "config_sentence_transformers.json", {"default_prompt_name": None})
    write(folder, prompt=None, cases=judged(folder))

    # K1, K2: files that are there and do not count.
    folder = cross_encoder(out / "no-modules", prompts=prompts, default_prompt_name="query", activation_fn=IDENTITY)
    (folder / "modules.json").unlink()
    edit(folder, "sentence_bert_config.json", {"max_seq_length": 16})
    write(folder, prompt=None, cases=judged(folder))
    folder = cross_encoder(out / "embedding-type", prompts=prompts, default_prompt_name="query", activation_fn=IDENTITY)
    edit(folder, "config_sentence_transformers.json", {"model_type": "SentenceTransformer"})
    write(folder, prompt=None, cases=judged(folder))
    # K3: null is the default, and config.json is asked next.
    folder = cross_encoder(out / "activation-null", prompts=prompts, default_prompt_name="query")
    path = folder / "config_sentence_transformers.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"activation_fn": None}) + "\n", "utf-8")
    edit(folder, "config.json", {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Tanh", "version": "5.1.0"}})
    write(folder, prompt="find: ", cases=judged(folder))

    # K6: limits of sentence_bert_config.json.
    folder = cross_encoder(out / "max-seq-length", activation_fn=IDENTITY, prompts=prompts, default_prompt_name="other")
    edit(folder, "sentence_bert_config.json", {"max_seq_length": 24})
    write(folder, prompt="classify this ", cases=judged(folder))
    bare = encoder(out / "bare", "bert")
    module = Transformer(str(bare), transformer_task="sequence-classification", processing_kwargs={"text": {"max_length": 20}})
    folder = out / "processing-length"
    shutil.rmtree(folder, ignore_errors=True)
    CrossEncoder(modules=[module], device="cpu", activation_fn=IDENTITY).save_pretrained(str(folder))
    write(folder, prompt=None, cases=judged(folder))
    folder = cross_encoder(out / "lower-case", save=dict(lower=False), activation_fn=IDENTITY)
    edit(folder, "sentence_bert_config.json", {"do_lower_case": True})
    write(folder, prompt=None, cases=judged(folder))

    # Token types: the two generic classes. Version 4 gave types where the file names no inputs; here its scores are had by naming them.
    folder = encoder(out / "types-generic-5", "bert", tokenizer_class="TokenizersBackend")
    write(folder, prompt=None, cases=judged(folder))
    folder = encoder(out / "types-generic-4", "bert", tokenizer_class="PreTrainedTokenizerFast")
    edit(folder, "config.json", {"transformers_version": "4.57.1"})
    names = {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}
    write(folder, prompt=None, cases=judged(folder, processor_kwargs=names))
    # Saved by 5.24 under the old name: none.
    folder = encoder(out / "types-renamed-5", "bert", tokenizer_class="PreTrainedTokenizerFast")
    write(folder, prompt=None, cases=judged(folder))

    # A class that builds its tokenizer anew: `cases` are those of the class, `by_file` those of tokenizer.json as it stands.
    def odd_bert(value):
        value["model"]["max_input_chars_per_word"] = 20
        value["normalizer"]["clean_text"] = False

    def odd_roberta(value):
        value["normalizer"] = {"type": "Lowercase"}

    def odd_xlmr(value):
        value["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": True}
        value["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]}
        value["model"]["unk_id"] = 1

    # The class lays out a pair by itself too, whatever the file's post-processor says.
    def odd_template(value):
        for piece in value["post_processor"]["pair"]:
            for part in piece.values():
                part["type_id"] = 0

    folder = encoder(out / "split-special", "bert", split_special_tokens=True)
    write(folder, prompt=None, cases=judged(folder))
    for name, kind, change in (("class-template", "bert", odd_template), ("class-bert", "bert", odd_bert), ("class-roberta", "roberta", odd_roberta), ("class-xlmr", "xlmr", odd_xlmr)):
        folder = encoder(out / name, kind, edit_tokenizer=change)
        by_class = judged(folder)
        named = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))["tokenizer_class"]
        edit(folder, "tokenizer_config.json", {"tokenizer_class": "TokenizersBackend"})
        inputs = {"processor_kwargs": names} if kind == "bert" else {}
        by_file = judged(folder, **inputs)
        edit(folder, "tokenizer_config.json", {"tokenizer_class": named})
        moved = max(abs(a - b) for one, two in zip(by_class, by_file) for a, b in zip(one["scores"], two["scores"]))
        assert moved > 0.01, f"{name}: class and file agree"
        write(folder, prompt=None, cases=by_class, by_file=by_file)

    # To refuse: other modules, and pairs that go through a chat template.
    module = Transformer(str(bare), transformer_task="feature-extraction")
    dense = Dense(in_features=16, out_features=1, activation_function=IDENTITY, module_input_name="sentence_embedding", module_output_name="scores")
    folder = out / "modules-dense"
    shutil.rmtree(folder, ignore_errors=True)
    model = CrossEncoder(modules=[module, Pooling(16, pooling_mode="cls"), dense], device="cpu")
    model.predict([("a", "b")])
    model.save_pretrained(str(folder))
    write(folder, refused=["modules.json", "Pooling", "1_Pooling"])
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    (bare / "chat_template.jinja").write_text(template, "utf-8")
    folder = out / "message"
    shutil.rmtree(folder, ignore_errors=True)
    model = CrossEncoder(str(bare), device="cpu", local_files_only=True)
    print("message scores", model.predict([("a", "b")]))
    model.save_pretrained(str(folder))
    write(folder, refused=["sentence_bert_config.json", "modality_config", "message"])
    shutil.rmtree(bare)
    total = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    assert total < 2_000_000, total
    print(f"{total / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
