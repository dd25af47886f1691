"""Container images without a registry: built with buildah, brought to containerd as archives.

An image's tag is a hash of all that goes into it: an image that exists under its tag is never built again, and one
that containerd has is never imported again.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import packages
from common import HERE, Problem, cache_dir, locked, run, say, tail, unmount_below
from recipes import BASES, PROJECT, Contexts, node_tag

# How the host is trusted and where pip looks, lent to RUN steps: nothing of either stays in the image.
_LENT = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pip.conf")


def ensure(names: Iterable[str], containerd: Path) -> dict[str, str]:
    """Builds and imports what containerd does not have yet; returns each image's name with its tag.

    `containerd` is its directory, with the socket in it. Raises Problem with the end of a build that failed.
    """
    with tempfile.TemporaryDirectory() as snapshots:
        contexts = Contexts(Path(snapshots))
        images = {name: contexts.image(name) for name in names}
        if _missing(images, containerd):
            packages.ensure(packages.IMAGES)
            with locked(_home() / ".lock"):
                store = _Store(contexts)
                for name in _missing(images, containerd):  # once more: others may have been at work meanwhile
                    store.build(name)
                    _import(store, images[name], containerd)
                unmount_below(_home())  # buildah leaves its storage mounted upon itself
        return images


def push(names: Iterable[str], registry: str) -> dict[str, str]:
    """Builds on published base images with docker, podman or buildah, and pushes; returns names with tags."""
    installed = (name for name in ("docker", "podman", "buildah") if shutil.which(name))
    engine = next((name for name in installed if run([name, "info"], check=False).returncode == 0), None)
    if engine is None:
        raise Problem(f"pushing images to {registry} needs docker, podman or buildah; none of them works here")
    with tempfile.TemporaryDirectory() as snapshots:
        contexts = Contexts(Path(snapshots), published=True)
        pushed: dict[str, str] = {}

        def ensure_pushed(name: str) -> str:
            if name not in pushed:
                image = f"{registry.rstrip('/')}/{contexts.image(name)}"
                parents = {key: parent for key, parent in PROJECT[name].parents.items() if parent in PROJECT}
                arguments = [f"--build-arg={key}={ensure_pushed(parent)}" for key, parent in parents.items()]
                arguments += _variant(name)
                say(f"building {image} with {engine}")
                context = contexts.directory(name)
                build = [engine, "bud" if engine == "buildah" else "build", *arguments]
                _stream([*build, "-f", str(context / PROJECT[name].path), "-t", image, str(context)], name)
                say(f"pushing {image}")
                _stream([engine, "push", image], name)
                pushed[name] = image
            return pushed[name]

        return {name: ensure_pushed(name) for name in names}


def _variant(name: str) -> list[str]:
    """What tells a Dockerfile which variant to build."""
    variant = PROJECT[name].variant
    return [f"--build-arg=VARIANT={variant}"] if variant else []


def node_image(name: str) -> str:
    """The full name under which containerd keeps one of the node's own images."""
    return f"docker.io/library/{name}:{node_tag(name)}"


def _home() -> Path:
    return cache_dir() / "images"


@contextlib.contextmanager
def _scratch(purpose: str) -> Iterator[Path]:
    """An empty directory for one purpose, emptied of what a command that was killed left behind."""
    directory = _home() / f"scratch-{purpose}"

    def clear() -> None:
        if directory.exists():
            unmount_below(directory)
            shutil.rmtree(directory)

    clear()
    directory.mkdir()
    try:
        yield directory
    finally:
        clear()


def _missing(images: Mapping[str, str], containerd: Path) -> list[str]:
    """Names of those images that containerd does not have."""
    present = set(_ctr(containerd, "images", "ls", "-q").split())
    return [name for name, image in images.items() if f"docker.io/library/{image}" not in present]


def _import(store: _Store, image: str, containerd: Path) -> None:
    say(f"importing {image}")
    with _scratch("import") as scratch:
        archive = scratch / "image.tar"
        store.buildah("push", f"localhost/{image}", f"docker-archive:{archive}:docker.io/library/{image}")
        _ctr(containerd, "images", "import", str(archive))


def _ctr(containerd: Path, *arguments: str) -> str:
    return run(["ctr", "--address", containerd / "containerd.sock", "--namespace", "k8s.io", *arguments]).stdout


class _Store:
    """buildah with storage of its own in the cache."""

    def __init__(self, contexts: Contexts) -> None:
        self._contexts = contexts
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
        image = self._image(name)
        if run([*self._global, "inspect", "--type=image", image], check=False).returncode == 0:
            return
        if name == "study-pause":
            self._pause(image)
        elif name in BASES:
            self._base(name, image)
        else:
            self._from_dockerfile(name, image)
        self._forget_older(image)

    def _image(self, name: str) -> str:
        return f"localhost/{self._contexts.image(name)}"

    def _from_dockerfile(self, name: str, image: str) -> None:
        dockerfile = PROJECT[name]
        arguments = [f"--layers={str(self._driver == 'overlay').lower()}", "--isolation=chroot"]
        for key, parent in dockerfile.parents.items():
            self.build(parent)
            arguments.append(f"--build-arg={key}={self._image(parent)}")
        arguments += _variant(name)
        arguments += [f"--volume={path}:{path}:ro" for path in _LENT if Path(path).exists()]
        say(f"building {name} from {dockerfile.path}")
        context = self._contexts.directory(name)
        arguments += [f"--file={context / dockerfile.path}", f"--tag={image}", str(context)]
        _stream([*self._global, "bud", *arguments], name)

    def _pause(self, image: str) -> None:
        say("building study-pause")
        with _scratch("pause") as scratch:
            environment = {"CGO_ENABLED": "0", "GOWORK": "off"}
            run(
                ["go", "build", "-trimpath", "-ldflags", "-s -w", "-o", f"{scratch}/pause", "main.go"],
                env=environment,
                cwd=HERE / "pause",
            )
            self._commit(image, f"{scratch}/pause", "/pause", "--entrypoint", '["/pause"]', "--user", "65535:65535")

    def _base(self, name: str, image: str) -> None:
        base = BASES[name]
        say(f"building {name}: Debian {base.suite} with Python, by debootstrap (a minute or two)")
        with _scratch("base") as scratch:
            root = scratch / "root"
            include = f"--include={base.packages}"
            run(["debootstrap", "--variant=minbase", include, base.suite, root, *packages.mirror()])
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

    def _forget_older(self, image: str) -> None:
        repository, _, tag = image.rpartition(":")
        listed = self.buildah("images", "--format", "{{.Name}}:{{.Tag}}", "--filter", f"reference={repository}")
        for other in listed.split():
            of_this_variant = other.rpartition(":")[2].partition("-")[2] == tag.partition("-")[2]
            if other != image and of_this_variant:
                run([*self._global, "rmi", other], check=False)


def _overlay_works() -> bool:
    with _scratch("overlay") as scratch:
        for part in ("lower", "upper", "work", "merged"):
            (scratch / part).mkdir()
        options = f"lowerdir={scratch}/lower,upperdir={scratch}/upper,workdir={scratch}/work"
        return (
            run(["mount", "-t", "overlay", "overlay", "-o", options, scratch / "merged"], check=False).returncode == 0
        )


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
