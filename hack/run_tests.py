"""`make test`: lint and all tests, in two lanes side by side, with the time that each step takes.

One lane computes: lint, unit tests, component tests. The other one mostly waits for pods: the local cluster, and the
end-to-end tests. What measures how long somebody waits comes after both, when nothing else runs. A step's output goes
to a file while the step runs, and is shown when the step has ended. After a failure no further step begins, and what
failed is shown last.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PYTEST = (sys.executable, "-m", "pytest")
E2E = (*PYTEST, "tests/e2e", "--durations=5")
PROGRESS_SECONDS = 60
SHORT = "not variants and not faults"  # `make test-variants` and `make test-faults` run the others


@dataclass(frozen=True)
class Step:
    """A part of `make test`.

    Attributes:
        name: what is shown of it.
        command: what it runs, in the repository's root.
    """

    name: str
    command: tuple[str, ...]


LANES = (
    (
        Step("lint", ("make", "--no-print-directory", "-j2", "--output-sync=target", "lint")),
        Step(
            "unit and component tests",
            (
                *(*PYTEST, "-n", "4", "--dist", "worksteal", "-m", f"{SHORT} and not neighbours"),
                *("tests/component", "tests/unit", "--durations=10"),
            ),
        ),
    ),
    (
        Step("local cluster and installation", (sys.executable, "hack/demo.py", "--only-install")),
        Step(
            "end-to-end tests", (*E2E, "-n", "4", "--dist", "worksteal", "-m", f"{SHORT} and not apart and not alone")
        ),
        Step("end-to-end tests, apart", (*E2E, "-n", "3", "--dist", "loadfile", "-m", f"{SHORT} and apart")),
    ),
)
NEIGHBOURS = (*PYTEST, "-m", "neighbours", "--durations=5")
# An operator of its own, which is to be alone as well.
OF_THE_EMBEDDED_DATABASE = "tests/component/test_neighbours_embedded.py"
LAST = (
    Step("beside a neighbour", (*NEIGHBOURS, "tests/component", f"--ignore={OF_THE_EMBEDDED_DATABASE}")),
    Step("beside a neighbour, embedded database", (*NEIGHBOURS, OF_THE_EMBEDDED_DATABASE)),
    Step("end-to-end tests, alone", (*E2E, "-m", f"{SHORT} and alone")),
)


class Run:
    """One run of all steps.

    Args:
        outputs: the directory for the steps' output.
    """

    def __init__(self, outputs: Path) -> None:
        self._outputs = outputs
        self._began = time.monotonic()
        self._printing = threading.Lock()
        self._failed: list[tuple[Step, str]] = []
        self._times: list[tuple[str, float]] = []
        self._running: dict[str, Path] = {}

    def all(self) -> int:
        """Run the lanes. Return the exit code."""
        self._side_by_side(*LANES)
        self._side_by_side(LAST)
        for name, seconds in self._times:
            print(f"{_minutes(seconds)}  {name}")
        print(f"{_minutes(time.monotonic() - self._began)}  in all")
        for step, output in self._failed:
            print(f"\n===== {step.name}: FAILED =====\n{output}")
        return 1 if self._failed else 0

    def _side_by_side(self, *lanes_of_steps: tuple[Step, ...]) -> None:
        lanes = [threading.Thread(target=self._lane, args=(steps,), daemon=True) for steps in lanes_of_steps]
        for lane in lanes:
            lane.start()
        while going_on := [lane for lane in lanes if lane.is_alive()]:
            going_on[0].join(PROGRESS_SECONDS)
            self._progress()

    def _lane(self, steps: tuple[Step, ...]) -> None:
        for step in steps:
            if self._failed:
                return
            self._step(step)

    def _step(self, step: Step) -> None:
        path = self._outputs / (step.name.replace(",", "").replace(" ", "-") + ".log")
        self._say(f"{step.name} begins; its output: {path}")
        began = time.monotonic()
        with path.open("w") as file:
            self._running[step.name] = path
            done = subprocess.run(step.command, cwd=REPOSITORY, stdout=file, stderr=subprocess.STDOUT)
            del self._running[step.name]
        seconds = time.monotonic() - began
        output = path.read_text(errors="replace")
        self._times.append((step.name, seconds))
        if done.returncode == 0:
            self._say(f"{step.name} took {_minutes(seconds)}", output)
        else:
            self._failed.append((step, output))
            self._say(f"{step.name} FAILED after {_minutes(seconds)}; its output follows at the end")

    def _progress(self) -> None:
        for name, path in list(self._running.items()):
            last = path.read_text(errors="replace").rstrip().rpartition("\n")[2]
            self._say(f"{name}: {last[:120]}")

    def _say(self, line: str, output: str = "") -> None:
        with self._printing:
            print(f"{output}===== [{_minutes(time.monotonic() - self._began)}] {line}", flush=True)


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60:2}:{int(seconds) % 60:02}"


def main() -> int:
    """Run everything. Return the exit code."""
    os.environ["PYTHONPATH"] = os.pathsep.join(str(REPOSITORY / part) for part in ("operator", "trial-image", "client"))
    return Run(Path(tempfile.mkdtemp(prefix="study-operator-test-"))).all()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # the steps, which are of the terminal's group as well, have got it too
        sys.exit(130)
