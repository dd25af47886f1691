"""What `pip install` of each distribution brings: the wheels are built and read."""

from __future__ import annotations

import configparser
import email
import os
import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from pathlib import Path
from typing import NamedTuple

import pytest
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement

from study_client import VERSION

ROOT = Path(__file__).resolve().parents[3]
FOLDERS = {"study-operator": ROOT, "study-trial": ROOT / "trial-image", "study-client": ROOT / "client"}
SOURCES = {"study-operator": ROOT / "operator", "study-trial": ROOT / "trial-image", "study-client": ROOT / "client"}
COMMANDS = {
    "study-operator": {"study-operator": "study_operator.__main__:main"},
    "study-trial": {"study-trial": "study_trial.__main__:main"},
    # Names that kubectl looks for on PATH.
    "study-client": {
        "kubectl-study": "study_client.__main__:main",
        "kubectl_complete-study": "study_client.__main__:complete",
    },
}
ROOMS = ("model", "optimizer", "manifests", "validate")  # of the operator, for a local run


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
    assert wheels[name].commands == COMMANDS[name]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_wheel_has_every_file_of_its_package(wheels, name):
    folder = SOURCES[name]
    sources = {
        str(path.relative_to(folder))
        for path in (folder / name.replace("-", "_")).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    if name == "study-operator":
        sources.add("study_operator/validate/study.yaml")  # crds/study.yaml
    found = {file for file in wheels[name].files if ".dist-info/" not in file}
    assert sources == {file for file in found if not file.startswith("study_client/rooms/")}


def test_the_client_has_the_rooms_for_a_local_run_and_no_other(wheels, tmp_path):
    """As installed, without the operator: what `validate` and `run --local` import is there."""
    prefix = "study_client/rooms/study_operator/"
    files = {file.removeprefix(prefix) for file in wheels["study-client"].files if file.startswith(prefix)}
    assert {file.split("/")[0] for file in files} == {"__init__.py", "texts.py", *ROOMS}
    assert {"validate/study.yaml", "optimizer/study_optimizer.py"} <= files
    (built,) = WheelBuilder(str(FOLDERS["study-client"])).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(built) as archive:
        archive.extractall(tmp_path / "installed")
    paths = [str(tmp_path / "installed"), str(SOURCES["study-trial"])]
    study = str(ROOT / "examples/minimal/study.yaml")
    for command in (["validate", study], ["run", "--local", study, "--trials", "1"]):
        done = subprocess.run(
            [sys.executable, "-m", "study_client", *command],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PATH": str(Path(sys.executable).parent)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert "Complete" in done.stdout


def test_the_client_needs_nothing_but_for_its_extras(wheels):
    assert wheels["study-client"].dependencies == set()
    local = {
        Requirement(each).name
        for each in wheels["study-client"].metadata.get_all("Requires-Dist", [])
        if "local" in each
    }
    assert {"optuna", "study-trial"} <= local
    assert not {"kopf", "kubernetes", "aiohttp"} & local


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


def test_all_have_the_same_version(wheels):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {wheel.metadata["Version"] for wheel in wheels.values()} == {project["version"]}
    assert project["version"] == VERSION
    wanted = wheels["study-client"].metadata.get_all("Requires-Dist", [])
    assert any(each.startswith(f"study-trial=={project['version']};") for each in wanted)
