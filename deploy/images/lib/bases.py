"""Stand-ins for public base images, made from Debian's archive where no container registry is in reach.

They bear the public names, so that Dockerfile and compose files are used unchanged, and are made in an engine of our own only.
A label says what they are."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

from engine import Engine, Failed, cache_folder, say

DEBIAN_RELEASE = "bookworm"
SLIM = f"debian:{DEBIAN_RELEASE}-slim"
LABEL = "nats-rerank.stand-in"
PULL_SECONDS_MAX = 60
# What Debian's own slim image leaves out as well.
LEFT_OUT = ["usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/lintian", "var/lib/apt/lists", "var/cache", "var/log"]


def have(engine: Engine, image: str, make) -> None:
    """Sees to it that the image is there: it is, it is pulled, or a stand-in is made."""
    if engine.inspect(image):
        return
    try:
        pulled = engine.run("pull", "--quiet", image, check=False, timeout_s=PULL_SECONDS_MAX).returncode == 0
    except subprocess.TimeoutExpired:
        pulled = False
    if pulled:
        return
    if not engine.own:
        raise Failed(f"{image} cannot be pulled. (Stand-ins are made only in an engine of our own: stop this one, or point DOCKER_HOST at none.)")
    say(f"{image} cannot be pulled: making a stand-in")
    make(engine, image)


def mirror() -> str:
    """The Debian archive that this machine's apt uses."""
    asked = ["apt-get", "indextargets", "--format", "$(SITE)", "Origin: Debian", "Label: Debian", "Created-By: Packages"]
    sites = subprocess.run(asked, capture_output=True, text=True).stdout.split() if shutil.which("apt-get") else []
    if not sites or not shutil.which("debootstrap"):
        raise Failed("a stand-in for Debian needs debootstrap, and an apt that has the list of a Debian archive (apt-get update)")
    return sites[0]


def slim(engine: Engine, image: str = SLIM) -> None:
    with tempfile.TemporaryDirectory(prefix="base-", dir=cache_folder()) as folder:
        root = Path(folder, "root")
        made = subprocess.run(["debootstrap", "--variant=minbase", DEBIAN_RELEASE, str(root), mirror()], capture_output=True, text=True)
        if made.returncode:
            raise Failed(f"debootstrap: {made.stdout.strip()[-2000:]}")
        import_slim(engine, root, image)


def import_slim(engine: Engine, root: Path, image: str) -> None:
    excluded = [word for path in LEFT_OUT for word in ("--exclude", f"./{path}/*")]
    tar = subprocess.Popen(["tar", "-C", str(root), *excluded, "--one-file-system", "-c", "."], stdout=subprocess.PIPE)
    command = [engine.docker, "import", "--change", f'LABEL {LABEL}="debootstrap"', "--change", 'CMD ["bash"]', "-", image]
    done = subprocess.run(command, stdin=tar.stdout, env=engine.environment, capture_output=True, text=True)
    tar.stdout.close()
    if tar.wait() or done.returncode:
        raise Failed(f"docker import: {done.stderr.strip()}")


def rust(engine: Engine, image: str) -> None:
    """Debian, a C compiler and this machine's own Rust, laid out as in the image of that name."""
    sysroot = Path(subprocess.run(["rustc", "--print", "sysroot"], capture_output=True, text=True, check=True, cwd="/").stdout.strip()).resolve()
    to = "/usr/local/rustup/toolchains/here"
    script = f"""set -e
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends ca-certificates gcc libc6-dev >/dev/null
        rm -rf /var/lib/apt/lists/*
        mkdir -p {to} /usr/local/cargo/bin
        tar -C /toolchain --exclude ./share -c . | tar -C {to} --no-same-owner -x
        ln -s {to}/bin/* /usr/local/cargo/bin/"""
    environment = {"RUSTUP_HOME": "/usr/local/rustup", "CARGO_HOME": "/usr/local/cargo", "PATH": "/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    commit(engine, image, script, [f"ENV {key}={value}" for key, value in environment.items()], [f"{sysroot}:/toolchain:ro"])


def debian_program(package: str, entrypoint: str, *changes: str, prepare: str = "true"):
    """A program of Debian, in place of its own project's image. wget is what health checks of compose.yaml ask with."""

    def make(engine: Engine, image: str) -> None:
        script = f"""set -e
            apt-get update -qq
            DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends {package} wget >/dev/null
            rm -rf /var/lib/apt/lists/*
            {prepare}"""
        commit(engine, image, script, [f"ENTRYPOINT {json.dumps([entrypoint])}", *changes], [])

    return make


nats = debian_program("nats-server", "/usr/sbin/nats-server")
prometheus = debian_program("prometheus", "/usr/bin/prometheus", "USER 65534:65534", "WORKDIR /prometheus", prepare="install -d -o 65534 -g 65534 /prometheus")


def commit(engine: Engine, image: str, script: str, changes: list[str], mounts: list[str]) -> None:
    have(engine, SLIM, slim)
    volumes = [word for mount in mounts for word in ("--volume", mount)]
    container = engine.run("create", "--network", "host", *volumes, SLIM, "sh", "-c", script).stdout.strip()
    try:
        ran = engine.run("start", "--attach", container, check=False)
        if ran.returncode:
            raise Failed(f"{image}: {(ran.stdout + ran.stderr).strip()[-2000:]}")
        label = f'LABEL {LABEL}="Debian\'s packages"'
        wanted = [label, *changes] if any(change.startswith("ENTRYPOINT") for change in changes) else [label, 'CMD ["bash"]', *changes]
        if not any(change.startswith("CMD") for change in wanted):
            wanted.append("CMD []")
        engine.run("commit", *[word for change in wanted for word in ("--change", change)], container, image)
    finally:
        engine.run("rm", "--force", container, check=False)
