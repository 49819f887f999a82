"""This machine's own way to the registries, handed into a build as secrets: proxies, mirrors, certificates. No layer holds them."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

CERTIFICATES = ("SSL_CERT_FILE", "PIP_CERT", "CARGO_HTTP_CAINFO", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
PASSED = re.compile(r"(https?|no|all|ftp)_proxy|PIP_\w+|CARGO_(HTTP|NET|REGISTRIES|REGISTRY|SOURCE)_\w+|HF_ENDPOINT", re.IGNORECASE)


def secrets(folder: Path) -> list[str]:
    """Arguments of `docker build`; files are written into `folder`, which the caller removes."""
    values = pip_settings() | {name: value for name, value in os.environ.items() if PASSED.fullmatch(name)}
    arguments = []
    authorities = next((os.environ[name] for name in CERTIFICATES if Path(os.environ.get(name) or "/nowhere").is_file()), None)
    authorities = authorities or next((path for path in ("/etc/ssl/certs/ca-certificates.crt",) if Path(path).is_file()), None)
    # A path of this machine leads nowhere in a build.
    values = {name: value for name, value in values.items() if not value.startswith(("/", "~"))}
    if authorities:
        arguments += ["--secret", f"id=ca,src={authorities}"]
        values |= dict.fromkeys(CERTIFICATES, "/run/secrets/ca")
    path = folder / "settings"
    path.touch(mode=0o600)
    path.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(values.items())))
    arguments += ["--secret", f"id=settings,src={path}"]
    home = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo")
    for name in ("config.toml", "config"):
        if (home / name).is_file():
            return arguments + ["--secret", f"id=cargo-config,src={home / name}"]
    return arguments


def pip_settings() -> dict[str, str]:
    """What pip's own files say, as the variables that say the same."""
    lines = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout.splitlines()
    found = {}
    for line in lines:
        match = re.fullmatch(r"(?:global|download|install)\.([a-z-]+)=(.*)", line)
        if match:
            found["PIP_" + match.group(1).upper().replace("-", "_")] = str(ast.literal_eval(match.group(2))).strip()
    return found
