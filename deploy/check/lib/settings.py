"""The settings that a container is started with, judged by nats-rerank itself."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple


class Started(NamedTuple):
    """What `config` says of a container's settings: every value, and what it complains about."""

    values: dict
    problems: list[str]
    missing_files: list[str]


def ask(program: Path, action: str, arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("RERANK_", "HF_"))}
    words = action.split()
    return subprocess.run([str(program), "config", *words, *arguments], env=own | environment, capture_output=True, text=True, timeout=60)


def started_with(program: Path, arguments: list[str], environment: dict[str, str], files: dict[str, str]) -> Started:
    """`arguments` of the subcommand; `files`: mounted files by their path in the container, with their content."""
    return asked_once(program, json.dumps([arguments, environment, files]))


# Most renderings start the same containers, and each asking is two processes.
@functools.lru_cache(maxsize=512)
def asked_once(program: Path, written: str) -> Started:
    arguments, environment, files = json.loads(written)
    with tempfile.TemporaryDirectory() as folder:
        return asked(program, arguments, environment, files, Path(folder))


def asked(program: Path, arguments: list[str], environment: dict[str, str], files: dict[str, str], folder: Path) -> Started:
    config_arguments = []
    for word in arguments:
        for path, content in files.items():
            if word == path or word.endswith(f"={path}") and word.startswith("--config"):
                copy = folder / path.strip("/").replace("/", "_")
                copy.write_text(content)
                word = word.replace(path, str(copy))
        config_arguments.append(word)
    check = ask(program, "check", config_arguments, environment)
    text = check.stdout + check.stderr
    missing = [m.group(1) for m in re.finditer(r'= "([^"]+)": no such file', text)]
    problems = []
    if check.returncode:
        problems.append(f"nats-rerank config check says: {text.strip()}")
        return Started({}, problems, missing)
    for line in text.splitlines():
        if line.startswith("warning") and "no such file" not in line:
            problems.append(f"nats-rerank config check warns: {line}")
    shown = ask(program, "print --format json", config_arguments, environment)
    return Started(flat(json.loads(shown.stdout)), problems, missing)


def flat(tree: dict, prefix: str = "") -> dict:
    """`section.key` to value, from what `config print --format json` says."""
    values = {}
    for key, entry in tree.items():
        if isinstance(entry, dict) and set(entry) == {"value", "source"}:
            values[prefix + key] = entry["value"]
        elif isinstance(entry, dict):
            values |= flat(entry, f"{prefix}{key}.")
    return values
