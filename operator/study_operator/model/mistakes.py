"""What may be written, can be run, and is most likely not what its user wants: found before the first trial.

A Study that was accepted before is not looked at again: what is found here has never kept one from running.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from study_operator.model import option_bounds
from study_operator.model.distributions import Categorical
from study_operator.model.search_space import Space, as_text, shown
from study_operator.model.study import Objective, Refused, Study

# Metrics by the words in their names. Those of the first kind lie between 0 and 1, or between 0 and 100 as per cent.
_SHARES = re.compile(r"acc|accuracy|auc|auroc|f1|precision|recall|iou|dice|map|top1|top5", re.IGNORECASE)
_LOSSES = re.compile(r"loss|error|err|rmse|mse|mae|perplexity|wer|cer|latency|rmsle|mape", re.IGNORECASE)
_WORDS = re.compile(r"[^A-Za-z0-9]+|(?<=[a-z])(?=[A-Z])")


def mistakes(study: Study) -> list[str]:
    """Look for what is most likely a mistake.

    Returns:
        What may be one, as sentences for the user.

    Raises:
        Refused: it is one. The message says what to write instead.
    """
    option_bounds.check_least(study)
    _check_steps(study)
    found = [*option_bounds.without_effect(study), *_similar_choices(study.space), *_no_choice(study)]
    for objective in study.objectives:
        found.extend(_goal(objective))
    return found


def _check_steps(study: Study) -> None:
    for parameter in study.parameters:
        bounds = parameter.get("float") or parameter.get("int") or {}
        step = bounds.get("step")
        if step is None:
            continue
        low, high = bounds["low"], bounds["high"]
        if low < high and step > high - low:
            raise Refused(
                "InvalidSearchSpace",
                f"parameter {parameter['name']!r}: step is {as_text(step)}, which is greater than the range from "
                f"{as_text(low)} to {as_text(high)}, so that only {as_text(low)} is ever tried: write a smaller step, "
                f"or a categorical with the one choice {as_text(low)}",
            )


def _similar_choices(space: Space) -> Iterator[str]:
    for name, known in space.distributions.items():
        if not isinstance(known, Categorical):
            continue
        before: dict[str, str] = {}
        for choice in known.choices:
            text = as_text(choice)
            other = before.setdefault(" ".join(text.split()).casefold(), shown(choice))
            if other != shown(choice):
                same = other.strip('"') == text
                how = "are the same text in PARAM_..." if same else "differ only by case or blanks"
                yield f"the choices {other} and {shown(choice)} of parameter {name!r} {how}: is one of them a mistake?"


def _no_choice(study: Study) -> Iterator[str]:
    if study.max_trials > 1 and all(known.single for known in study.distributions.values()):
        yield (
            "every parameter has one value only, so that all trials are the same: give one of them a range, or set "
            "spec.maxTrials to 1"
        )


def _goal(objective: Objective) -> Iterator[str]:
    goal, words = objective.goal, _WORDS.split(objective.name)
    if goal is None:
        return
    is_share = any(_SHARES.fullmatch(word) for word in words)
    is_loss = any(_LOSSES.fullmatch(word) for word in words)
    said = f"the goal of {objective.name!r} is {as_text(goal)}"
    if objective.direction == "MAXIMIZE" and is_share and not is_loss and goal > 1:
        most = "100" if goal > 100 else "1, if the program reports it as a share"
        yield f"{said}, and such a value is commonly at most {most}: then no trial ever reaches it"
    if objective.direction == "MINIMIZE" and (is_loss or is_share) and goal < 0:
        yield f"{said}, and such a value is commonly at least 0: then no trial ever reaches it"
