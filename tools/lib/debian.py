"""Single programs out of packages of a newer Debian than the machine's, unpacked into the cache: nothing is installed.

apt checks the signature and the checksum; the package's version is pinned here. The mirror is the one that the machine's own apt
uses. Their programs run on Debian 12 as well: they need libc alone."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from cache import SetupError, build_folder, cache_folder, is_complete, locked, say

RELEASE = "trixie"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class Program(NamedTuple):
    """A program, the package that it comes in, and how it is asked whether it runs."""

    package: str
    version: str
    member: str
    proof: list[str]
    megabytes: int


PROGRAMS = {
    "kubectl": Program("kubectl", "1.32.3+ds-2", "usr/bin/kubectl", ["version", "--client"], 16),
    "docker-compose": Program("docker-compose", "2.26.1-4", "usr/libexec/docker/cli-plugins/docker-compose", ["version"], 13),
    "prometheus": Program("prometheus", "2.53.3+ds1-2", "usr/bin/prometheus", ["--version"], 60),
    "promtool": Program("promtool", "2.53.3+ds1-2", "usr/bin/promtool", ["--version"], 15),
}


def program(name: str) -> Path:
    """The program's path: the one that the variable of its name (`KUBECTL`, …) gives, else the pinned one, fetched once.

    Raises SetupError with what to do by hand."""
    wanted = PROGRAMS[name]
    variable = name.upper().replace("-", "_")
    given = os.environ.get(variable)
    if given:
        prove(Path(given), wanted, f"{variable} is set to {given}, which")
        return Path(given)
    folder = cache_folder() / f"{name}-{wanted.version}"
    made_from = repr(wanted)
    with locked(cache_folder()):
        if not is_complete(folder, made_from):
            by_hand = f"Get {name} (like {wanted.package} {wanted.version} of Debian {RELEASE}) and set {variable} to it."
            say(f"{name}: fetching {wanted.package} {wanted.version} of Debian {RELEASE} ({wanted.megabytes} MB) into {folder}")
            build_folder(folder, made_from, 400_000_000, lambda new, scratch: fetch(name, wanted, new, scratch, by_hand))
    return folder / name


def fetch(name: str, wanted: Program, new: Path, scratch: Path, by_hand: str) -> None:
    scratch.chmod(0o755)
    options = private_apt(scratch, by_hand)
    run(["apt-get", *options, "update", "-qq"], f"{name}: apt cannot read the list of Debian {RELEASE}. {by_hand}", scratch)
    run(["apt-get", *options, "download", "-qq", f"{wanted.package}={wanted.version}"], f"{name}: apt cannot get the package. {by_hand}", scratch)
    (package,) = scratch.glob(f"{wanted.package}_*.deb")
    run(["dpkg-deb", "-x", str(package), str(scratch / "root")], f"{name}: cannot unpack its package. {by_hand}", scratch)
    shutil.copy2(scratch / "root" / wanted.member, new / name)
    prove(new / name, wanted, f"{name} of Debian {RELEASE}")


def private_apt(scratch: Path, by_hand: str) -> list[str]:
    """Options that give apt lists, cache and state of its own below `scratch`, and one source."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb") and KEYRING.is_file()):
        raise SetupError(f"no apt with Debian's keys on this machine. {by_hand}")
    # Of the machine's own sources, the archive itself: the security archive has a label of its own.
    found = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE)", "Origin: Debian", "Label: Debian", "Created-By: Packages"], capture_output=True, text=True
    )
    sites = found.stdout.split()
    if not sites:
        raise SetupError(f"apt has no list of a Debian archive (`apt-get update` gets it; Ubuntu's is another). {by_hand}")
    for folder in ("lists/partial", "cache/archives/partial"):
        (scratch / folder).mkdir(parents=True)
    (scratch / "status").touch()
    (scratch / "sources.list").write_text(f"deb [signed-by={KEYRING}] {sites[0]} {RELEASE} main\n")
    settings = {
        "Dir::State": scratch, "Dir::State::lists": scratch / "lists", "Dir::State::status": scratch / "status", "Dir::Cache": scratch / "cache",
        "Dir::Etc::sourcelist": scratch / "sources.list", "Dir::Etc::sourceparts": "-", "Dir::Etc::preferences": "-",
        "Dir::Etc::preferencesparts": "-", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
        # The folder belongs to one user; apt's own would not get in.
        "APT::Sandbox::User": "root",
    }  # fmt: skip
    return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]


def prove(path: Path, wanted: Program, what: str) -> None:
    try:
        result = subprocess.run([str(path), *wanted.proof], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SetupError(f"{what} does not run: {error}") from error
    if result.returncode:
        raise SetupError(f"{what} does not run: {result.stderr.strip()}")


def run(command: list[str], message: str, folder: Path) -> None:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if result.returncode:
        raise SetupError(f"{message}\n{(result.stderr or result.stdout).strip()}")
