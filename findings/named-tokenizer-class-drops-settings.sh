#!/usr/bin/env bash
# transformers 5.24.0: AutoTokenizer on a folder whose tokenizer_config.json names BertTokenizer takes vocabulary and post-processor from
# tokenizer.json and builds the rest anew: `max_input_chars_per_word` (here 5) and `clean_text` (here false) of the file are dropped
# without a word, though the tokenizers library follows them.
# Exit 0: as stated. Another status: the behaviour has changed, or the packages could not be installed.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.24.0 tokenizers==0.23.3
mkdir "$work/model"
cat >"$work/try.py" <<'PYTHON'
import json, sys
import tokenizers, transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "egg", "whale", "##s"]
base = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]", max_input_chars_per_word=5))
base.normalizer = normalizers.BertNormalizer(clean_text=False, lowercase=True)
base.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
base.post_processor = processors.TemplateProcessing(
    single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
folder = sys.argv[1]
base.save(folder + "/tokenizer.json")
json.dump({"tokenizer_class": "BertTokenizer"}, open(folder + "/tokenizer_config.json", "w"))
json.dump({"model_type": "bert", "architectures": ["BertForSequenceClassification"]}, open(folder + "/config.json", "w"))
by_class = transformers.AutoTokenizer.from_pretrained(folder)
by_file = Tokenizer.from_file(folder + "/tokenizer.json")
same = True
for text, file_tokens, class_tokens in [
    ("whales", ["[UNK]"], ["whale", "##s"]),        # six characters
    ("eg\u0007g", ["[UNK]"], ["egg"]),              # a control character, which clean_text removes
]:
    one, two = by_file.encode(text, add_special_tokens=False).tokens, by_class.tokenize(text)
    print("transformers", transformers.__version__, repr(text), "tokenizer.json:", one, "BertTokenizer:", two)
    same &= one == file_tokens and two == class_tokens
sys.exit(not same)
PYTHON
"$work/venv/bin/python" "$work/try.py" "$work/model" 2>/dev/null
