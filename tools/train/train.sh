#!/bin/sh
# Trains the built-in model from nothing: a virtual environment, the text, the training, the measuring.
# Needs Debian or Ubuntu (apt-get, apt-cache, dpkg-deb; no root), Python 3.11 or later, about 4 GB of disk,
# and about an hour and a half on two cores. Arguments go to run.py: train.sh [all|prepare|train|eval|check] [--steps N]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cache="${XDG_CACHE_HOME:-$HOME/.cache}/nats-rerank"
python="${NATS_RERANK_TRAIN_PYTHON:-$cache/train-venv/bin/python}"
if [ ! -x "$python" ]; then
    python3 -m venv "$cache/train-venv"
    "$python" -m pip install -q -r "$here/requirements.txt"
fi
[ $# -gt 0 ] || set -- all
export OMP_WAIT_POLICY=PASSIVE  # no spinning: kinder and faster on a shared machine
exec nice -n 10 "$python" "$here/run.py" "$@"
