"""Check that what must be text in a Job template is text. YAML reads 3, 1e-3, true, no and on as something else.

The API server refuses them as well, in words of its programming language: "cannot unmarshal number into Go struct field
EnvVar.spec.template.spec.containers.env.value of type string".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from study_operator.model.study import Refused, Study

_WHERE = "spec.jobTemplate.spec.template"


def check_quotes(study: Study) -> None:
    """Check the texts of a template that has the shape of a Job's.

    Raises:
        Refused: one of them is no text. The message says which, and what to write.
    """
    for where, value in _texts(study.job_template["spec"]["template"]):
        if value is not None and not isinstance(value, str):
            raise Refused("JobTemplateInvalid", f"{where} {no_text(value)}")


def no_text(value: Any) -> str:
    """Return what is wrong with a value where text belongs, and what to write, as the end of a sentence."""
    shown = json.dumps(value)
    shown = shown if len(shown) <= 40 else f"{shown[:37]}..."
    if isinstance(value, bool):
        words = "y, yes and on" if value else "n, no and off"
        return (
            f"is {shown} and must be text: put what stands there in quotes, because YAML reads {words} without quotes "
            f"as {shown}"
        )
    if isinstance(value, int | float):
        return f'is {shown}, a number, and must be text: put it in quotes, "{shown}"'
    if value is None:
        return 'is null and must be text: put it in quotes, "null", or leave it out'
    kind = "a list" if isinstance(value, list) else "an object"
    return f"is {kind}, {shown}, and must be text: put it in quotes, '{shown}'"


def _texts(template: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield each value of a pod's template that must be text and is often written without quotes, with its place."""
    metadata = template.get("metadata") or {}
    for field in ("labels", "annotations"):
        yield from _values(f"{_WHERE}.metadata.{field}", metadata.get(field))
    pod = template["spec"]
    yield from _values(f"{_WHERE}.spec.nodeSelector", pod.get("nodeSelector"))
    for kind in ("initContainers", "containers"):
        for number, container in enumerate(pod.get(kind) or ()):
            where = f"{_WHERE}.spec.{kind}[{number}]"
            for field in ("command", "args"):
                words = container.get(field)
                if words is not None and not isinstance(words, list):
                    raise Refused(
                        "JobTemplateInvalid",
                        f"{where}.{field} must be a list of texts and is {json.dumps(words)[:100]}: write one element "
                        "for each word",
                    )
                yield from ((f"{where}.{field}[{place}]", word) for place, word in enumerate(words or ()))
            for place, variable in enumerate(container.get("env") or ()):
                yield f"{where}.env[{place}].name", variable.get("name")
                yield f"{where}.env[{place}].value", variable.get("value")


def _values(where: str, texts: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(texts, Mapping):
        yield from ((f"{where}.{name}", value) for name, value in texts.items())
