"""Container images without a registry: built with buildah, brought to containerd as archives.

An image's tag is a hash of all that goes into it: an image that exists under its tag is never built again, and one
that containerd has is never imported again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import packages
from common import HERE, REPOSITORY, Problem, cache_dir, locked, run, say, tail

_SUITE, _MIRROR = "bookworm", "the mirror"
_BASE_PACKAGES = "python3,python3-pip,python3-venv"
_IGNORED = ("__pycache__", ".pytest_cache", ".ruff_cache")
# How the host is trusted and where pip looks, lent to RUN steps: nothing of either stays in the image.
_LENT = ("/etc/ssl/certs", "/etc/pip.conf")


@dataclass(frozen=True)
class _Dockerfile:
    """An image made from a Dockerfile, with the repository as its context."""

    path: str
    parents: Mapping[str, str] = field(default_factory=lambda: {"BASE_IMAGE": "study-base"})
    """Build argument -> which of these images it names."""


# The project's images, by name. What goes into one is what its Dockerfile copies.
PROJECT = {
    "study-operator": _Dockerfile("operator/Dockerfile"),
    "study-trial": _Dockerfile("trial-image/Dockerfile"),
    "study-trial-digits": _Dockerfile("examples/digits/Dockerfile", {"TRIAL_IMAGE": "study-trial"}),
    "study-postgres": _Dockerfile("hack/local-cluster/postgres/Dockerfile"),
}
# What the node itself needs: the pods' sandbox, and a Debian with Python that stands in for published base images.
NODE = ("study-pause", "study-base")


def ensure(names: Iterable[str], containerd: Path) -> dict[str, str]:
    """Builds and imports what containerd does not have yet; returns each image's name with its tag.

    `containerd` is its directory, with the socket in it. Raises Problem with the end of a build that failed.
    """
    with locked(_home() / ".lock"):
        tags = {name: f"{name}:{_tag(name)}" for name in names}
        present = set(_ctr(containerd, "images", "ls", "-q").split())
        missing = [name for name, image in tags.items() if f"docker.io/library/{image}" not in present]
        if missing:
            packages.ensure(packages.IMAGES)
        for name in missing:
            store = _Store()
            store.build(name)
            say(f"importing {tags[name]}")
            with tempfile.TemporaryDirectory(dir=_home()) as scratch:
                archive = f"docker-archive:{scratch}/image.tar:docker.io/library/{tags[name]}"
                store.buildah("push", f"localhost/{tags[name]}", archive)
                _ctr(containerd, "images", "import", f"{scratch}/image.tar")
        return tags


def push(names: Iterable[str], registry: str) -> dict[str, str]:
    """Builds on published base images with docker, podman or buildah, and pushes; returns names with tags."""
    engine = next((name for name in ("docker", "podman", "buildah") if shutil.which(name)), None)
    if engine is None:
        raise Problem(f"pushing images to {registry} needs docker, podman or buildah; none is on PATH")
    names = list(names)
    tags = {name: f"{registry.rstrip('/')}/{name}:{_tag(name, published=True)}" for name in PROJECT}
    for name in sorted(names, key=list(PROJECT).index):
        say(f"building {tags[name]} with {engine}")
        dockerfile = PROJECT[name]
        arguments = [
            f"--build-arg={key}={tags[parent]}" for key, parent in dockerfile.parents.items() if parent in tags
        ]
        with _staged(dockerfile) as context:
            build = "bud" if engine == "buildah" else "build"
            _stream(
                [engine, build, *arguments, "-f", str(context / dockerfile.path), "-t", tags[name], str(context)], name
            )
        _stream([engine, "push", tags[name]], name)
    return {name: tags[name] for name in names}


def reference(name: str) -> str:
    """The full name under which containerd keeps an image."""
    return f"docker.io/library/{name}:{_tag(name)}"


def _home() -> Path:
    return cache_dir() / "images"


def _ctr(containerd: Path, *arguments: str) -> str:
    return run(["ctr", "--address", containerd / "containerd.sock", "--namespace", "k8s.io", *arguments]).stdout


def _tag(name: str, published: bool = False) -> str:
    """A hash of all that makes the image: its Dockerfile, every file this copies, and the image it builds on."""
    if name == "study-pause":
        return _hash([HERE / "pause" / "main.go"])
    if name == "study-base":
        return _hash([], _SUITE, _BASE_PACKAGES)
    dockerfile = PROJECT[name]
    parents = [
        "published" if published and parent in NODE else _tag(parent, published)
        for parent in dockerfile.parents.values()
    ]
    return _hash([REPOSITORY / dockerfile.path, *_copied(dockerfile)], *parents)


def _hash(files: Iterable[Path], *words: str) -> str:
    digest = hashlib.sha256("\0".join(words).encode())
    for file in files:
        name = file.relative_to(REPOSITORY)
        digest.update(f"\0{name}\0{os.access(file, os.X_OK)}\0".encode())
        digest.update(os.readlink(file).encode() if file.is_symlink() else file.read_bytes())
    return digest.hexdigest()[:12]


def _copied(dockerfile: _Dockerfile) -> list[Path]:
    """The files of the repository that a Dockerfile copies, sorted. Raises Problem for one that does not exist."""
    path = REPOSITORY / dockerfile.path
    if not path.exists():
        raise Problem(f"{path} does not exist")
    text = re.sub(r"\\\n", " ", path.read_text())
    files: set[Path] = set()
    for line in re.findall(r"^(?:COPY|ADD)\s+(.*)$", text, re.MULTILINE):
        words = line.split()
        if any(word.startswith("--from=") for word in words):
            continue
        for pattern in [word for word in words if not word.startswith("--")][:-1]:
            found = list(REPOSITORY.glob(pattern.rstrip("/")))
            if not found:
                raise Problem(f"{dockerfile.path} copies {pattern}, which does not exist in {REPOSITORY}")
            for source in found:
                files.update([source] if source.is_file() else (file for file in source.rglob("*") if file.is_file()))
    return sorted(file for file in files if not set(file.relative_to(REPOSITORY).parts) & set(_IGNORED))


@contextlib.contextmanager
def _staged(dockerfile: _Dockerfile) -> Iterator[Path]:
    """A build context of exactly those files that the image's tag stands for."""
    _home().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_home(), prefix="context-") as scratch:
        for file in [REPOSITORY / dockerfile.path, *_copied(dockerfile)]:
            target = Path(scratch, file.relative_to(REPOSITORY))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, target, follow_symlinks=False)
        yield Path(scratch)


class _Store:
    """buildah with storage of its own in the cache."""

    def __init__(self) -> None:
        # Layers on overlayfs make a change of the last step cost a second; where it cannot be mounted (the cache
        # lies on an overlay itself), each layer is a full copy, and then one layer an image has to do.
        self._driver = "overlay" if _overlay_works() else "vfs"
        storage = _home() / self._driver
        self._global = [
            "buildah",
            "--root",
            str(storage),
            "--runroot",
            str(storage) + "-run",
            "--storage-driver",
            self._driver,
        ]

    def buildah(self, *arguments: str) -> str:
        """Runs one buildah command and returns what it printed."""
        return run([*self._global, *arguments]).stdout.strip()

    def build(self, name: str) -> None:
        """Builds an image and all it builds on, unless they exist."""
        image = f"localhost/{name}:{_tag(name)}"
        if run([*self._global, "inspect", "--type=image", image], check=False).returncode == 0:
            return
        recipe: dict[str, Callable[[str], None]] = {"study-pause": self._pause, "study-base": self._base}
        recipe.get(name, lambda image: self._from_dockerfile(name, image))(image)
        self._forget_older(name, image)

    def _from_dockerfile(self, name: str, image: str) -> None:
        dockerfile = PROJECT[name]
        arguments = [f"--layers={str(self._driver == 'overlay').lower()}", "--isolation=chroot"]
        for key, parent in dockerfile.parents.items():
            self.build(parent)
            arguments.append(f"--build-arg={key}=localhost/{parent}:{_tag(parent)}")
        arguments += [f"--volume={path}:{path}:ro" for path in _LENT if Path(path).exists()]
        say(f"building {name} from {dockerfile.path}")
        with _staged(dockerfile) as context:
            _stream(
                [*self._global, "bud", *arguments, "-f", str(context / dockerfile.path), "-t", image, str(context)],
                name,
            )

    def _pause(self, image: str) -> None:
        say("building study-pause")
        with tempfile.TemporaryDirectory() as scratch:
            environment = {"CGO_ENABLED": "0", "GOWORK": "off"}
            run(
                ["go", "build", "-trimpath", "-ldflags", "-s -w", "-o", f"{scratch}/pause", "main.go"],
                env=environment,
                cwd=HERE / "pause",
            )
            self._commit(image, f"{scratch}/pause", "/pause", "--entrypoint", '["/pause"]', "--user", "65535:65535")

    def _base(self, image: str) -> None:
        say(f"building study-base: Debian {_SUITE} with Python, by debootstrap (about a minute)")
        with tempfile.TemporaryDirectory(dir=_home()) as scratch:
            root = Path(scratch) / "root"
            run(["debootstrap", "--variant=minbase", f"--include={_BASE_PACKAGES}", _SUITE, root, _MIRROR])
            for leftover in ("var/cache/apt", "var/lib/apt/lists", "var/log"):
                shutil.rmtree(root / leftover)
                (root / leftover).mkdir()
            for of_this_machine in ("etc/hostname", "etc/resolv.conf"):
                (root / of_this_machine).write_text("")
            run(["tar", "-C", root, "--numeric-owner", "-cf", f"{scratch}/root.tar", "."])
            self._commit(image, f"{scratch}/root.tar", "/", "--cmd", "bash")

    def _commit(self, image: str, content: str, target: str, *config: str) -> None:
        container = self.buildah("from", "scratch")
        try:
            self.buildah("add", container, content, target)
            self.buildah("config", *config, container)
            self.buildah("commit", container, image)
        finally:
            self.buildah("rm", container)

    def _forget_older(self, name: str, image: str) -> None:
        listed = self.buildah("images", "--format", "{{.Name}}:{{.Tag}}", "--filter", f"reference=localhost/{name}")
        for other in listed.split():
            if other != image:
                run([*self._global, "rmi", other], check=False)


def _overlay_works() -> bool:
    _home().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_home()) as scratch:
        for part in ("lower", "upper", "work", "merged"):
            Path(scratch, part).mkdir()
        options = f"lowerdir={scratch}/lower,upperdir={scratch}/upper,workdir={scratch}/work"
        mounted = run(["mount", "-t", "overlay", "overlay", "-o", options, f"{scratch}/merged"], check=False)
        if mounted.returncode == 0:
            run(["umount", f"{scratch}/merged"])
    return mounted.returncode == 0


def _stream(argv: list[str], name: str) -> None:
    """Runs a build and says which step it is at. Raises Problem with the end of its output when it fails."""
    lines: deque[str] = deque(maxlen=40)
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        for line in process.stdout or ():
            lines.append(line)
            if re.match(r"(STEP|Step) \d+", line):
                say(f"  {name}: {line.strip()[:100]}")
    if process.returncode != 0:
        raise Problem(f"building {name} failed: {' '.join(argv)}\n{tail(''.join(lines), 40)}")
