"""`kubectl-study` as one file: it runs without anything installed, and is the same each time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("zipapp") / "bin/kubectl-study"
    subprocess.run([sys.executable, str(ROOT / "hack/zipapp_client.py"), str(target)], check=True, capture_output=True)
    return target


def run(file: Path, *args: str) -> subprocess.CompletedProcess[str]:
    # -I and -S: no site-packages, no PYTHONPATH, no current directory.
    command = [sys.executable, "-I", "-S", str(file), *args]
    return subprocess.run(command, env={"PATH": "/nowhere"}, capture_output=True, text=True, timeout=60)


def test_it_needs_the_standard_library_alone(file: Path, tmp_path: Path):
    assert run(file, "version").stdout.startswith("kubectl study ")
    assert "COMMAND" in run(file, "-h").stdout
    assert "there is no kubectl on PATH" in run(file, "list").stderr
    script = tmp_path / "train.py"
    script.write_text('parser.add_argument("--lr", type=float, default=0.1)')
    assert "kind: Study" in run(file, "init", str(script), "--file", "-").stdout


@pytest.mark.parametrize("command", [["validate", "study.yaml"], ["run", "--local", "study.yaml"]])
def test_it_says_what_needs_pip(file: Path, command: list[str]):
    done = run(file, *command)
    assert (done.returncode, done.stdout) == (1, "")
    assert "pip install 'study-client[local]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_it_is_the_same_each_time(file: Path, tmp_path: Path):
    again = tmp_path / "again"
    subprocess.run([sys.executable, str(ROOT / "hack/zipapp_client.py"), str(again)], check=True, capture_output=True)
    assert again.read_bytes() == file.read_bytes()
    assert file.stat().st_mode & 0o111
    assert file.stat().st_size < 150_000
