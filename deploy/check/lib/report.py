"""What the checks say, and the Python that they run in."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tools" / "lib"))

from cache import SetupError, cache_folder  # noqa: E402
from made import python_of  # noqa: E402

REQUIREMENTS = ROOT / "deploy" / "check"


def say(text: str) -> None:
    print(f"deploy-check: {text}", flush=True)


class Report:
    """Collects what is wrong and what could not be checked, and says so at the end."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.problems: list[str] = []
        self.left_out: list[str] = []

    def part(self, name: str, problems: list[str]) -> None:
        """One part of the check has ended with these problems."""
        say(f"{self.what}: {name}: " + ("ok" if not problems else f"{len(problems)} problem(s)"))
        self.problems += problems

    def could_not(self, what: str) -> None:
        self.left_out.append(what)

    def end(self) -> int:
        for problem in self.problems:
            say(f"{self.what}: PROBLEM {problem}")
        for what in self.left_out:
            say(f"{self.what}: !!!! NOT CHECKED {what}")
        say(f"{self.what}: " + ("failed" if self.problems else "ok, but for what was not checked" if self.left_out else "ok"))
        return 1 if self.problems else 0


def own_python(what: str) -> Path:
    """A Python of the cache that has what `<what>.lock` here names, made if it is missing."""
    return python_of("deploy-venv" if what == "requirements" else f"deploy-{what}-venv", REQUIREMENTS / f"{what}.lock", say, "--require-hashes")


def into_own_python() -> None:
    """Go on in the Python that the checks run in (150 MB on disk)."""
    python = own_python("requirements")
    if Path(sys.prefix).resolve() == python.parents[1].resolve():
        return
    sys.stdout.flush()
    os.execv(python, [str(python), *sys.argv])


def rerank_program() -> Path:
    """nats-rerank: $NATS_RERANK_BIN, else the debug or release build, whichever is newer."""
    target = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
    given = os.environ.get("NATS_RERANK_BIN")
    found = [Path(given)] if given else [p for p in (target / "debug" / "nats-rerank", target / "release" / "nats-rerank") if p.is_file()]
    if not found:
        raise SetupError(f"no nats-rerank in {target}: run `cargo build`")
    return max(found, key=lambda path: path.stat().st_mtime)
