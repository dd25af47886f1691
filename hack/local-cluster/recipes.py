"""What each image is made of, and its tag: a hash of just that."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from common import HERE, REPOSITORY, Problem

BASE_PACKAGES = "python3,python3-pip,python3-venv"
_IGNORED = ("__pycache__", ".pytest_cache", ".ruff_cache")


@dataclass(frozen=True)
class Dockerfile:
    """An image made from a Dockerfile, with the repository as its context."""

    path: str
    parents: Mapping[str, str] = field(default_factory=lambda: {"BASE_IMAGE": "study-base"})
    """Build argument -> which of these images it names."""
    variant: str = ""
    """The build argument VARIANT, and the end of the tag."""


@dataclass(frozen=True)
class Base:
    """A Debian release with some packages, made by debootstrap."""

    suite: str
    packages: str


# The project's images, parents first. What goes into one is what its Dockerfile copies.
PROJECT = {
    "study-operator": Dockerfile("operator/Dockerfile"),
    "study-operator-gp": Dockerfile("operator/Dockerfile", {"BASE_IMAGE": "study-base-torch"}, "gp"),
    "study-trial": Dockerfile("trial-image/Dockerfile"),
    "study-trial-digits": Dockerfile("examples/digits/Dockerfile", {"TRIAL_IMAGE": "study-trial"}),
    "study-postgres": Dockerfile("hack/local-cluster/postgres/Dockerfile"),
    "study-operator-hyperopt": Dockerfile("examples/plugins/hyperopt/Dockerfile", {"OPERATOR_IMAGE": "study-operator"}),
    "study-operator-botorch": Dockerfile(
        "examples/plugins/botorch/Dockerfile", {"OPERATOR_IMAGE": "study-operator-gp"}
    ),
}
# Images that take minutes to build, and that only those who ask for them get.
ON_DEMAND = ("study-operator-gp", "study-operator-hyperopt", "study-operator-botorch")
# Debians with Python that stand in for published base images. Debian's PyTorch is built for CPUs; that of its release
# before this one is too old for BoTorch.
BASES = {
    "study-base": Base("bookworm", BASE_PACKAGES),
    "study-base-torch": Base("trixie", f"{BASE_PACKAGES},python3-torch"),
}
# What the node itself needs: the pods' sandbox, and the first of those.
NODE = ("study-pause", "study-base")


def node_tag(name: str) -> str:
    """The tag of the pods' sandbox or of a base image."""
    if name == "study-pause":
        return hashlib.sha256((HERE / "pause" / "main.go").read_bytes()).hexdigest()[:12]
    return hashlib.sha256(f"{BASES[name].suite} {BASES[name].packages}".encode()).hexdigest()[:12]


class Contexts:
    """Build contexts, each a snapshot of exactly the files that go into its image.

    Taken once and hashed afterwards: a file that somebody edits during a build is either in both image and tag, or
    in neither. `scratch` is an empty directory for them; with `published`, images build on published base images.
    """

    def __init__(self, scratch: Path, published: bool = False) -> None:
        self._scratch = scratch
        self._published = published
        self._tags: dict[str, str] = {}

    def directory(self, name: str) -> Path:
        """The context of an image whose tag was asked for."""
        return self._scratch / name

    def tag(self, name: str) -> str:
        """The tag of an image. Raises Problem when its Dockerfile copies something that does not exist."""
        if name not in PROJECT:
            return "published" if self._published else node_tag(name)
        if name not in self._tags:
            parents = [self.tag(parent) for parent in PROJECT[name].parents.values()]
            self._tags[name] = self._snapshot(name, parents)
        return self._tags[name]

    def image(self, name: str) -> str:
        """An image's name and tag. A variant is the image of another name with a tag that ends in the variant."""
        if name not in PROJECT or not (variant := PROJECT[name].variant):
            return f"{name}:{self.tag(name)}"
        return f"{name.removesuffix(f'-{variant}')}:{self.tag(name)}-{variant}"

    def _snapshot(self, name: str, parents: Iterable[str]) -> str:
        digest = hashlib.sha256("\0".join(parents).encode())
        for file in _files(PROJECT[name]):
            target = self.directory(name) / file.relative_to(REPOSITORY)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, target)
            digest.update(f"\0{file.relative_to(REPOSITORY)}\0{os.access(target, os.X_OK)}\0".encode())
            digest.update(target.read_bytes())
        return digest.hexdigest()[:12]


def _files(dockerfile: Dockerfile) -> list[Path]:
    """The Dockerfile and what it copies from the repository, sorted."""
    path = REPOSITORY / dockerfile.path
    if not path.exists():
        raise Problem(f"{path} does not exist")
    files = {path}
    for line in re.findall(r"^(?:COPY|ADD)\s+(.*)$", path.read_text().replace("\\\n", " "), re.MULTILINE):
        words = line.split()
        if any(word.startswith("--from=") for word in words):
            continue
        for pattern in [word for word in words if not word.startswith("--")][:-1]:
            found = list(REPOSITORY.glob(pattern.rstrip("/")))
            if not found:
                raise Problem(f"{dockerfile.path} copies {pattern}, which does not exist in {REPOSITORY}")
            for source in found:
                files.update(file for file in (source, *source.rglob("*")) if file.is_file())
    return sorted(file for file in files if not set(file.relative_to(REPOSITORY).parts) & set(_IGNORED))
