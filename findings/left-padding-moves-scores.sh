#!/usr/bin/env bash
# sentence-transformers 6.2.0, transformers 5.24.0: with `"padding_side": "left"` in tokenizer_config.json, CrossEncoder.predict of a BERT classifier
# reads the first position of the padded row, which is padding: a pair's score depends on the pairs beside it.
# Exit 0: as stated. Another status: the behaviour has changed, or the packages (3 GB) could not be installed. PYTHON: a Python that has them.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
if [[ -z ${PYTHON:-} ]]; then
    python3 -m venv "$work/venv"; PYTHON=$work/venv/bin/python
    "$PYTHON" -m pip install --quiet --disable-pip-version-check torch==2.11.0 transformers==5.24.0 sentence-transformers==6.2.0
fi
cat >"$work/try.py" <<'PYTHON'
import json, sys
import torch, transformers
from sentence_transformers import CrossEncoder
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "egg", "whale", "boil", "water"]
folder = sys.argv[1]
config = transformers.BertConfig(vocab_size=9, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
                                 max_position_embeddings=32, num_labels=1, initializer_range=0.5)
torch.manual_seed(1)
transformers.BertForSequenceClassification(config).save_pretrained(folder)
pairs = [("egg", "boil"), ("egg", "water whale water whale water")]
def far(side):
    transformers.BertTokenizer(vocab={w: i for i, w in enumerate(words)}, padding_side=side).save_pretrained(folder)
    model = CrossEncoder(folder, device="cpu", local_files_only=True, activation_fn=torch.nn.Identity())
    return abs(float(model.predict(pairs)[0]) - float(model.predict(pairs[:1])[0]))
right, left = far("right"), far("left")
print("a pair alone and beside a longer one: right padding differs by", right, "left by", left)
sys.exit(not (right < 1e-5 < 1e-2 < left))
PYTHON
"$PYTHON" "$work/try.py" "$work/model" 2>/dev/null
# Seen on 2026-11-28: a pair alone and beside a longer one: right padding differs by 1.19e-07 left by 0.0202
