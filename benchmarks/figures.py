"""What the benchmarks share: their command line, figures and their spread, and facts about the machine."""

from __future__ import annotations

import argparse
import importlib.metadata
import math
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


class Failed(Exception):
    """A benchmark cannot go on; the message says why and what to do."""


def command(description: str, measure: Callable[[argparse.Namespace], None], **options: tuple[type, Any, str]) -> int:
    """Runs a benchmark's command. An interrupt ends it as an exception does: whatever it made is removed on the way.

    Args:
        options: for each option its type, default and help; a bool is a flag.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, (kind, default, text) in options.items():
        flag = {"action": "store_true"} if kind is bool else {"type": kind, "default": default}
        suffix = "" if kind is bool else f" (default: {default})"
        parser.add_argument(f"--{name.replace('_', '-')}", help=text + suffix, **flag)
    for ending in (signal.SIGINT, signal.SIGTERM):  # a shell starts background commands with SIGINT ignored
        signal.signal(ending, signal.default_int_handler)
    try:
        measure(parser.parse_args())
    except (Failed, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def percentile(values: Iterable[float], percent: float) -> float:
    """The smallest of the values that is not exceeded by `percent` per cent of them (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def spread(values: Sequence[float], unit: str = "", scale: float = 1.0) -> str:
    """Median over the repetitions, and in brackets the least and the most."""
    low, middle, high = (scale * value for value in (min(values), statistics.median(values), max(values)))
    return f"{number(middle)}{unit} ({number(low)}-{number(high)})"


def number(value: float) -> str:
    """Three significant digits, no exponent."""
    digits = 2 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(digits, 3)}f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a Markdown table that can be read as it stands."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    lines.insert(1, ["-" * width for width in widths])
    for line in lines:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |")


def heading(title: str, **versions: str) -> None:
    """Prints what is measured, when, on what, and with which versions."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    all_versions = {"Python": platform.python_version(), "study-operator": _commit(), **versions}
    print(f"{title}\n")
    print(
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores "
        f"({model[1] if model else platform.machine()}), {memory:.0f} GiB, Linux {platform.release()}, "
        f"load {os.getloadavg()[0]:.2f} at the start"
    )
    print(", ".join(f"{name} {version}" for name, version in all_versions.items()), end="\n\n", flush=True)


def progress(text: str) -> None:
    """A line for people who wait; figures alone go to stdout."""
    print(text, file=sys.stderr, flush=True)


def version(package: str) -> str:
    return importlib.metadata.version(package)


def _commit() -> str:
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = ["status", "--porcelain", "--untracked-files=no", "operator", "trial-image", "helm"]
    modified = subprocess.run([*git, *changed], capture_output=True, text=True).stdout.strip()
    return (commit or "of unknown commit") + (" with changes" if modified else "")
