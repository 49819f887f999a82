"""Checks of an exported checkpoint: sizes, tokenizer, config, and that it opens and scores."""

import json

from tokenizers import Tokenizer

from . import pool as P, settings as S, teacher


def run(folder=S.MODEL_OUT):
    total = sum(f.stat().st_size for f in folder.iterdir() if f.is_file())
    assert total <= S.MAX_FILE_BYTES, f"{total} bytes, over the limit of {S.MAX_FILE_BYTES}"
    raw = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    assert raw["truncation"] is None and raw["padding"] is None
    config = json.loads((folder / "config.json").read_text())
    assert len(raw["model"]["vocab"]) == config["vocab_size"]
    small, full = Tokenizer.from_file(str(folder / "tokenizer.json")), teacher.tokenizer()
    held = P.build()["held"]
    for name, texts, allowed in (
        ("everyday evaluation texts", [t for i in P.everyday() for t in (i["query"], i["relevant"], *i["others"])], 0.005),
        ("held-out package descriptions", [long for _, long in held], 0.03),
    ):
        differ = sum(a.tokens != b.tokens for a, b in zip(full.encode_batch(texts), small.encode_batch(texts)))
        print(f"tokenizer: {differ} of {len(texts)} {name} get other pieces than with the full vocabulary")
        assert differ <= allowed * len(texts)
    assert not small.encode("zyzzogeton 1646 flibbertigibbet ~ @ #").tokens.count("[UNK]")

    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(folder), device="cpu")
    assert type(model.activation_fn).__name__ == "Sigmoid" and model.max_length == 512, (model.activation_fn, model.max_length)
    scores = model.predict([(P.SEED_QUERY, d) for d in P.SEED_DOCS])
    order = [P.SEED_DOCS[i] for i in scores.argsort()[::-1]]
    print("seed example:", [(round(float(scores[P.SEED_DOCS.index(d)]), 4), d) for d in order])
    assert {order[0], order[1]} == {P.SEED_DOCS[0], P.SEED_DOCS[2]}
    print(f"check: passed, {total:,} bytes")
