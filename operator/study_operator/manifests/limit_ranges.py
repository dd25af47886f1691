"""Make a container's resources fit the LimitRanges of a namespace.

A LimitRange is judged when a pod is created, so a container that the operator adds could keep a whole trial from
starting, and nothing in the Study would help.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from typing import Any

Amounts = Mapping[str, str | int]

_SUFFIXES = {
    **{"n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1)},
    **{suffix: Decimal(1000) ** i for i, suffix in enumerate("kMGTPE", 1)},
    **{f"{suffix}i": Decimal(1024) ** i for i, suffix in enumerate("KMGTPE", 1)},
}


def fit(
    requests: Amounts, limits: Amounts, if_limited: Amounts, ranges: Iterable[Mapping[str, Any]]
) -> dict[str, dict[str, str]]:
    """Return the resources of a container, as near to what it wants as the LimitRanges allow.

    Args:
        requests: what it wants as requests.
        limits: what it wants as limits.
        if_limited: the limit of a resource that needs one there and has none in `limits`.
        ranges: the items of the namespace's LimitRanges.
    """
    of_containers = [item for item in ranges if item.get("type") == "Container"]
    fitted: dict[str, dict[str, str]] = {"requests": {}, "limits": {}}
    for name in {**requests, **limits, **if_limited}:
        request, limit = _fit_one(
            _amount(requests.get(name)), _amount(limits.get(name)), _amount(if_limited.get(name)), name, of_containers
        )
        if request is not None:
            fitted["requests"][name] = _text(request, requests.get(name), name)
        if limit is not None:
            fitted["limits"][name] = _text(limit, limits.get(name, if_limited.get(name)), name)
    return {kind: amounts for kind, amounts in fitted.items() if amounts}


def _fit_one(
    request: Decimal | None,
    limit: Decimal | None,
    if_limited: Decimal | None,
    name: str,
    items: list[Mapping[str, Any]],
) -> tuple[Decimal | None, Decimal | None]:
    def given(bound: str) -> list[Decimal]:
        amounts = (_amount((item.get(bound) or {}).get(name)) for item in items)
        return [amount for amount in amounts if amount is not None]

    low, high = max(given("min"), default=None), min(given("max"), default=None)
    ratio, default = min(given("maxLimitRequestRatio"), default=None), min(given("default"), default=None)
    if limit is None and (high is not None or ratio is not None or default is not None):
        limit = if_limited if default is None else default
    if request is None and (low is not None or ratio is not None):
        request = low if low is not None else limit
    request, limit = _between(request, low, high), _between(limit, low, high)
    if limit is not None and request is not None:
        request = min(request, limit)
        if ratio:
            request = max(request, limit / ratio)
    return request, limit


def _between(amount: Decimal | None, low: Decimal | None, high: Decimal | None) -> Decimal | None:
    if amount is None:
        return None
    amount = amount if low is None else max(amount, low)
    return amount if high is None else min(amount, high)


def _amount(text: str | int | None) -> Decimal | None:
    """Return a quantity of Kubernetes as a number; None if there is none, or one that cannot be read."""
    if text is None:
        return None
    digits = str(text).strip()
    number = digits.rstrip("numkKMGTPEi")
    factor = _SUFFIXES.get(digits[len(number) :])
    try:
        return Decimal(number) * factor if factor is not None else None
    except InvalidOperation:
        return None


def _text(amount: Decimal, wanted: str | int | None, name: str) -> str:
    """Return a quantity as Kubernetes reads it: as it was wanted if it is that, CPU in thousandths, else whole."""
    if wanted is not None and amount == _amount(wanted):
        return str(wanted)
    if name == "cpu":
        return f"{(amount * 1000).to_integral_value(ROUND_CEILING)}m"
    return str(amount.to_integral_value(ROUND_CEILING))
