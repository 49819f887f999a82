#!/usr/bin/env bash
# A BERT tokenizer whose tokenizer_config.json names a generic class and no `model_input_names` gives the model token types 0 and 1
# under transformers 4.57.1 and none under 5.24.0: the scores of any pair change, and nothing says so.
# Exit 0: as stated. Another status: the behaviour has changed, or the packages could not be installed.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
cat >"$work/try.py" <<'PYTHON'
import json, sys
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "egg", "whale"]
base = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
base.normalizer, base.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
base.post_processor = processors.TemplateProcessing(
    single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
folder = sys.argv[1]
base.save(folder + "/tokenizer.json")
json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]", "pad_token": "[PAD]"}, open(folder + "/tokenizer_config.json", "w"))
json.dump({"model_type": "bert", "architectures": ["BertForSequenceClassification"]}, open(folder + "/config.json", "w"))
given = transformers.AutoTokenizer.from_pretrained(folder)("egg", "whale").get("token_type_ids")
print("transformers", transformers.__version__, "token_type_ids", given)
wanted = [0, 0, 0, 1, 1] if transformers.__version__.startswith("4.") else None
sys.exit(given != wanted)
PYTHON
for pinned in "transformers==4.57.1" "transformers==5.24.0 tokenizers==0.23.3"; do
    rm -rf "$work/venv" "$work/model"; mkdir "$work/model"
    python3 -m venv "$work/venv"
    # shellcheck disable=SC2086 # one word a package
    "$work/venv/bin/pip" install --quiet --disable-pip-version-check $pinned
    "$work/venv/bin/python" "$work/try.py" "$work/model" 2>/dev/null
done
# Seen on 2026-11-28:
# transformers 4.57.1 token_type_ids [0, 0, 0, 1, 1]
# transformers 5.24.0 token_type_ids None
