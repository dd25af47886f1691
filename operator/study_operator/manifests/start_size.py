"""Check that Linux can start the containers of a trial: arguments and environment have a limit in the kernel.

Beyond it the container does not start ("argument list too long"), in each trial, after its image was pulled.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from study_operator.model.study import Refused

# Of one argument or NAME=value, with the byte that ends it (MAX_ARG_STRLEN).
LONGEST_TEXT = 131_072
# Of all together, with a pointer to each: a quarter of the usual stack of 8 MiB, less what image and kubelet add.
LONGEST_ALL, _POINTER = 2 * 2**20 - 2**16, 8
_REFERENCE = re.compile(r"\$\$|\$\(([^()]+)\)")


def check_start(container: Mapping[str, Any], sources: Mapping[str, str]) -> None:
    """Check the arguments and the environment of a container of a trial's pod.

    Args:
        container: with the environment that it will have.
        sources: the fields of the Study that variables of the operator are made of, by the variable's name.

    Raises:
        Refused: one text, or all together, are too long. The message says how long, and what to shorten.
    """
    name, total, longest = container.get("name"), 0, ("", 0)
    for what, text in _texts(container):
        length = len(text.encode(errors="replace")) + 1
        total += length + _POINTER
        longest = max(longest, (what, length), key=lambda found: found[1])
    what, length = longest
    where = f"{what} of container {name!r}"
    if length > LONGEST_TEXT:
        raise Refused(
            "JobTemplateInvalid",
            f"{where} would have {length:,} bytes, and Linux takes at most {LONGEST_TEXT:,}: {_advice(what, sources)}",
        )
    if total > LONGEST_ALL:
        raise Refused(
            "JobTemplateInvalid",
            f"command, args and env of container {name!r} would have {total:,} bytes together, and Linux takes about "
            f"{LONGEST_ALL:,}; the longest is {what} with {length:,}: {_advice(what, sources)}",
        )


def _advice(what: str, sources: Mapping[str, str]) -> str:
    source = sources.get(what)
    return f"shorten {source}" if source else "shorten it, or mount it as a file"


def _texts(container: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what the kernel gets of a container: what it is, and the text with the variables put in."""
    known: dict[str, str] = {}
    for variable in container.get("env") or ():
        name = str(variable.get("name"))
        known[name] = _expanded(str(variable.get("value") or ""), known)
        yield name, f"{name}={known[name]}"
    for kind in ("command", "args"):
        for i, word in enumerate(container.get(kind) or ()):
            yield f"{kind}[{i}]", _expanded(str(word), known)


def _expanded(text: str, known: Mapping[str, str]) -> str:
    """Return a text as the kubelet passes it on. What the variables from a Secret or a ConfigMap hold is not known."""
    return _REFERENCE.sub(lambda found: "$" if found[0] == "$$" else known.get(found[1], found[0]), text)
