"""What `pip install study-operator` and `pip install study-trial` bring: the wheels are built and read."""

from __future__ import annotations

import configparser
import email
import tomllib
import zipfile
from email.message import Message
from pathlib import Path
from typing import NamedTuple

import pytest
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[3]
FOLDERS = {"study-operator": ROOT, "study-trial": ROOT / "trial-image"}


class Wheel(NamedTuple):
    """A built wheel: its file names, the metadata, and the commands that it installs."""

    files: list[str]
    metadata: Message
    commands: dict[str, str]

    @property
    def packages(self) -> set[str]:
        return {name.split("/")[0] for name in self.files if ".dist-info/" not in name}

    @property
    def dependencies(self) -> set[str]:
        """What is installed along, without extras."""
        wanted = map(Requirement, self.metadata.get_all("Requires-Dist", []))
        return {each.name for each in wanted if not each.marker or each.marker.evaluate({"extra": ""})}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> dict[str, Wheel]:
    return {name: _build(folder, tmp_path_factory.mktemp(name)) for name, folder in FOLDERS.items()}


def _build(folder: Path, target: Path) -> Wheel:
    (built,) = WheelBuilder(str(folder)).build(directory=str(target), versions=["standard"])
    with zipfile.ZipFile(built) as archive:
        files = archive.namelist()
        (info,) = {name.split("/")[0] for name in files if ".dist-info/" in name}
        commands = configparser.ConfigParser()
        commands.read_string(archive.read(f"{info}/entry_points.txt").decode())
        metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
    assert commands.sections() == ["console_scripts"]
    return Wheel(files, metadata, dict(commands["console_scripts"]))


@pytest.mark.parametrize("name", FOLDERS)
def test_a_distribution_has_its_own_package_and_its_own_command(wheels, name):
    package = name.replace("-", "_")
    assert wheels[name].metadata["Name"] == name
    assert wheels[name].packages == {package}
    assert wheels[name].commands == {name: f"{package}.__main__:main"}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_wheel_has_every_file_of_its_package(wheels, name):
    folder = ROOT / ("operator" if name == "study-operator" else "trial-image")
    sources = {
        str(path.relative_to(folder))
        for path in (folder / name.replace("-", "_")).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    if name == "study-operator":
        sources.add("study_operator/validate/study.yaml")  # crds/study.yaml
    assert sources == {file for file in wheels[name].files if ".dist-info/" not in file}


def test_a_training_image_gets_the_driver_and_nothing_else(wheels):
    assert wheels["study-trial"].dependencies == {"psycopg2-binary"}
    assert "study_trial/py.typed" in wheels["study-trial"].files


def test_the_operator_gets_what_it_runs_with_and_no_client(wheels):
    needed = wheels["study-operator"].dependencies
    assert {"kopf", "kubernetes", "optuna", "psycopg2-binary"} <= needed
    assert not {"study-trial", "pytest"} & needed


def test_modules_beside_the_public_face_are_private(wheels):
    parts = [file.removeprefix("study_trial/").split("/")[0] for file in wheels["study-trial"].files]
    assert {part for part in parts if not part.startswith("_") and ".dist-info" not in part} == {"py.typed"}


def test_both_have_the_same_version(wheels):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {wheel.metadata["Version"] for wheel in wheels.values()} == {project["version"]}
