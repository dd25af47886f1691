"""The storm of reports in short: `make bench-storm` with fewer trials."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_no_report_is_lost_in_a_storm(services):
    command = [sys.executable, str(ROOT / "benchmarks/storm.py")]
    options = "--clients 20 --seconds 3 --studies 2 --processes 2 --pool 4"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("operator", "trial-image"))}
    done = subprocess.run([*command, *options.split()], env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr  # it fails when a report is lost, or a trial is pruned that was not to be
    head, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines() if line[:1] == "|"
    ]
    figures = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert list(figures) == ["PgBouncer", "direct", "plain INSERT"]
    assert {row["lost"] for row in figures.values()} == {"0"}
    assert int(figures["PgBouncer"]["server connections"]) <= 4 < int(figures["direct"]["server connections"])
    assert int(figures["plain INSERT"]["reports"]) == 60
