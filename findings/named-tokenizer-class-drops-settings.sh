#!/usr/bin/env bash
# transformers 5.24.0: AutoTokenizer on a folder whose tokenizer_config.json names BertTokenizer takes the vocabulary from
# tokenizer.json and builds the rest anew: `max_input_chars_per_word` (here 5), `clean_text` (here false) and the post-processor (here
# token type 0 for both texts) of the file are dropped without a word, though the tokenizers library follows them.
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
    single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:0 [SEP]:0", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
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
file_types, class_types = base.encode("egg", "egg").type_ids, by_class("egg", "egg")["token_type_ids"]
print("token types of a pair: tokenizer.json:", file_types, "BertTokenizer:", class_types)
sys.exit(not (same and file_types == [0] * 5 and class_types == [0, 0, 0, 1, 1]))
PYTHON
"$work/venv/bin/python" "$work/try.py" "$work/model" 2>/dev/null
# Seen on 2026-11-28:
# transformers 5.24.0 'whales' tokenizer.json: ['[UNK]'] BertTokenizer: ['whale', '##s']
# transformers 5.24.0 'eg\x07g' tokenizer.json: ['[UNK]'] BertTokenizer: ['egg']
# token types of a pair: tokenizer.json: [0, 0, 0, 0, 0] BertTokenizer: [0, 0, 0, 1, 1]
