"""Numbers and steps as programs write them: one rule for every way in which a trial reports.

The operator has the same file (`study_operator/model/numerals.py`), because neither distribution imports the other. A
test sees that the two are equal.
"""

from __future__ import annotations

import math
import re

HIGHEST_STEP = 2**31 - 1  # of Optuna's column, an integer of 32 bits

# Stricter than float(), which accepts 1_000 and digits of other scripts. No digit can belong to two parts of the
# pattern: thousands of them before a letter would take seconds.
_PLAIN = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:e[-+]?[0-9]+)?|[-+]?(?:inf|infinity|nan)", re.I | re.A)
_DECIMAL_COMMA = re.compile(r"([-+]?[0-9]+),([0-9]+(?:e[-+]?[0-9]+)?)", re.I | re.A)
_TWO_READINGS = re.compile(r"[-+]?[1-9][0-9]{0,2},[0-9]{3}(?:e[-+]?[0-9]+)?", re.I | re.A)
_THOUSANDS = re.compile(r"[-+]?[1-9][0-9]{0,2}(?:,[0-9]{3})+(?:\.[0-9]*)?(?:e[-+]?[0-9]+)?", re.I | re.A)
_THOUSANDS_POINTS = re.compile(r"[-+]?[1-9][0-9]{0,2}(?:\.[0-9]{3})+,[0-9]+(?:e[-+]?[0-9]+)?", re.I | re.A)
# How libraries show a number: np.float64(0.91), tensor(0.91, device='cuda:0'), Decimal('0.91').
_SHOWN = re.compile(
    r"(?:(?:[a-z_]\w*\.)*(?:u?int|b?float|double|longdouble|half|tensor|array|devicearray|scalar|decimal|mpf)[0-9_]*)?"
    r"\((?P<inside>.*)\)",
    re.I | re.A | re.S,
)
_SHOWN_BY_TENSORFLOW = re.compile(r"<tf\.[^<>]*\bnumpy=(?P<inside>[^<>,\s]+)(?:[,\s][^<>]*)?>", re.A | re.S)
_OPTIONS = re.compile(
    r",\s*[a-z_]\w*=.*", re.I | re.A | re.S
)  # of a shown number: , device='cuda:0', dtype=torch.float64
_SHOWN_CHARACTERS = 100  # of what cannot be read
_STEP_OF = re.compile(r"([^/]+)/[^/]+")  # 3/30


class Unreadable(ValueError):
    """A text is no number, or no step.

    Attributes:
        word: the text as it is shown to users.
        why: what is wrong with it: "is no number".
    """

    def __init__(self, word: str, why: str) -> None:
        self.word, self.why = word, why
        super().__init__(f"{word} {why}")


class TooHigh(Unreadable):
    """A text is a step that Optuna's tables cannot hold."""


def number(text: str) -> float:
    """Return the number that a program has written: 0.91, -1e-3, nan, inf, 91%, 0,91, 1,234.5 or tensor(0.91).

    Raises:
        Unreadable: it is no number, too large for one, or has two readings.
    """
    word = text.strip()
    plain = word if _PLAIN.fullmatch(word) else _plain(word)
    value = float(plain)
    if math.isinf(value) and "inf" not in plain.lower():  # 1e999
        raise Unreadable(_shown(word), "is too large for a number")
    return value


def step(text: str) -> int:
    """Return the step that a program has written: 3, 3.0, 2.99, 3/30 or [3/30].

    Raises:
        Unreadable: it is no step.
    """
    word = text.strip()
    while len(word) > 1 and word[0] + word[-1] in ("[]", "()", '""', "''"):
        word = word[1:-1].strip()
    found = _STEP_OF.fullmatch(word)
    return whole_step(number(found[1] if found else word), _shown(text.strip()))


def whole_step(value: float, shown: str) -> int:
    """Return the step that a number is: its whole part, as Optuna has it, if Optuna's tables can hold that.

    Args:
        value: the number.
        shown: the step as it is shown to users.

    Raises:
        TooHigh: it is above HIGHEST_STEP.
        Unreadable: it is below 0, infinite or NaN.
    """
    if math.isnan(value) or math.isinf(value):
        raise Unreadable(shown, "is no step")
    whole = int(value)
    if whole < 0:
        raise Unreadable(shown, "is below 0")
    if whole > HIGHEST_STEP:
        raise TooHigh(shown, f"is above {HIGHEST_STEP}")
    return whole


class Steps:
    """Says at which step each value of one trial is reported, and what the study cannot see because of the steps.

    Optuna's rules: the first value of a step stands, and a pruner judges a trial at its highest step. Values without a
    step are counted from 0 if the program's first value has none. Otherwise they are no reports: a summary at the end,
    for example.

    Args:
        counted: how many values without a step have been reported; None if the first value has a step.

    Attributes:
        counted: the same, after the last value.
        warning: what the study could not see, first of all; "" when it could see everything.
    """

    def __init__(self, counted: int | None = 0) -> None:
        self.counted = counted
        self.warning = ""
        self._without = 0  # how many values have no step, although the first has one
        self._highest: tuple[int, float] | None = None

    def at(self, value: float, written: int | None, lost: str = "") -> int | None:
        """Return the step at which to report a value; None if it is no report.

        Args:
            value: the value.
            written: the step; None when there is none that can be used.
            lost: why the step that the program has written cannot be used; "" without such a step.
        """
        if lost:
            self._warn(f"{lost}: the value counts, but is no report that a pruner could judge")
            return None
        if written is None:
            if self.counted is None:
                self._without += 1
                if self._without == 2:  # one is a summary
                    self._warn("several values have no step, unlike the first: they count, but are no reports")
                return None
            written, self.counted = self.counted, self.counted + 1
        elif self.counted == 0:
            self.counted = None
        self._compare(written, value)
        return written

    def _compare(self, step: int, value: float) -> None:
        if self._highest is None or step > self._highest[0]:
            self._highest = step, value
            return
        highest, before = self._highest
        if step < highest:
            self._warn(f"step {step} came after step {highest}: a pruner judges a trial at its highest step only")
        elif repr(value) != repr(before):
            self._warn(
                f"step {step} came twice, with {before!r} and then {value!r}: the first value of a step stands, and "
                "the others are no reports"
            )

    def _warn(self, words: str) -> None:
        self.warning = self.warning or words


def _plain(word: str) -> str:
    """Return a number without commas, and without what a library shows around it. Raises Unreadable."""
    plain = _inside(word).removesuffix("%").rstrip()
    if _TWO_READINGS.fullmatch(plain):
        whole, point = plain.replace(",", ""), plain.replace(",", ".")
        raise Unreadable(_shown(word), f"has two readings, {whole} and {point}: print it without a comma")
    if found := _DECIMAL_COMMA.fullmatch(plain):
        plain = f"{found[1]}.{found[2]}"
    elif _THOUSANDS.fullmatch(plain):
        plain = plain.replace(",", "")
    elif _THOUSANDS_POINTS.fullmatch(plain):
        plain = plain.replace(".", "").replace(",", ".")
    if not _PLAIN.fullmatch(plain):
        raise Unreadable(repr(_shown(word)), "is no number")
    return plain


def _shown(word: str) -> str:
    return word if len(word) <= _SHOWN_CHARACTERS else f"{word[:_SHOWN_CHARACTERS]}..."


def _inside(word: str) -> str:
    """Return the number in what a library shows for one; the word itself if it is something else."""
    found = _SHOWN.fullmatch(word) or _SHOWN_BY_TENSORFLOW.fullmatch(word)
    if found is None:
        return word
    inside = _OPTIONS.sub("", found["inside"].strip())
    for pair in ("[]", "''", '""'):
        if len(inside) > 1 and inside[0] + inside[-1] == pair:
            inside = inside[1:-1].strip()
    return inside if "," not in inside else word  # tensor([0.91, 0.92]) are two


def is_number(word: str) -> bool:
    """Return whether a word is a number."""
    try:
        number(word)
    except Unreadable:
        return False
    return True
