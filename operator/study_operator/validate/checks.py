"""What the operator would say of a Study, as far as no cluster and no database are needed for it."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from study_operator import optimizer
from study_operator.manifests.contradictions import check_contradictions
from study_operator.manifests.job import Reporting, check_environment, check_variables, job_manifest
from study_operator.model import intake, log_lines, mistakes, option_bounds
from study_operator.model.initial_trials import initial_trials
from study_operator.model.intake import Unreadable
from study_operator.model.search_space import example_params
from study_operator.model.study import Algorithm, Refused, Study, parse
from study_operator.validate.cel import Unsupported
from study_operator.validate.schema import Finding, Schema, check, defaulted, rules

# What an installation or a cluster has: an address to report to, a trial image, a UID.
_REPORTING = Reporting(
    "postgresql://reporter@database/studies", "0" * 64, image="study-trial", directory="/var/run/study"
)
_UID = "00000000-0000-0000-0000-000000000000"
_SERVER_ONLY = (
    "what only the API server knows: the fields of spec.jobTemplate; policies and quotas; "
    "images, volumes, Secrets and service accounts; whether a Study of this name exists, whose fields may be fixed",
    "what only the installation knows: which namespaces it serves, and its limits",
)


def findings(manifest: dict[str, Any], schema: Schema) -> tuple[list[Finding], list[str]]:
    """Return what is found about a Study, and what was not checked, in sentences.

    Args:
        manifest: the Study, as its user wrote it.
        schema: that of a Study.
    """
    unchecked = list(_SERVER_ONLY)
    found = list(_sizes(manifest)) or list(check(manifest, schema))
    if found:
        return found, [*unchecked, "rules, options, variables and the search space: correct what is listed first"]
    complete = {
        **manifest,
        **defaulted({"spec": manifest["spec"]}, {"properties": {"spec": schema["properties"]["spec"]}}),
    }
    try:
        found = list(rules(complete, schema))
    except Unsupported as error:
        unchecked.append(f"a rule that only the API server can evaluate: {error}")
    if found:
        return found, [*unchecked, "options, variables and the search space: correct what is listed first"]
    given = manifest.get("metadata") or {}
    metadata = {"name": given.get("name") or f"{given['generateName']}00000"}
    complete["metadata"] = {**metadata, "namespace": given.get("namespace") or "default", "uid": _UID, "generation": 1}
    try:
        found = list(_operators(parse(complete), unchecked))
    except Refused as refusal:
        found = [_finding(refusal.message, True)]
        unchecked.append("options and variables: correct the search space first")
    names = [parameter["name"] for parameter in complete["spec"]["parameters"]]
    return [_placed(one, names) for one in found], unchecked


def _placed(finding: Finding, parameters: list[str]) -> Finding:
    """Return a finding about a parameter with its place."""
    match = re.match(r"parameter '([^']+)': (.*)", finding.message, re.DOTALL)
    if finding.path or match is None or match[1] not in parameters:
        return finding
    return finding._replace(path=f"spec.parameters[{parameters.index(match[1])}]", message=match[2])


def _sizes(manifest: dict[str, Any]) -> Iterator[Finding]:
    spec = manifest.get("spec")
    if not isinstance(spec, dict):
        return
    try:
        intake.check_depth(spec)
        intake.check_sizes({name: json.dumps(value).encode() for name, value in spec.items()})
    except Unreadable as error:
        yield Finding("", error.message)


def _operators(study: Study, unchecked: list[str]) -> Iterator[Finding]:
    """Yield what each check of the operator says. Each looks at something else, so no refusal hides another."""
    warnings: list[str] = []

    def variables() -> None:
        warnings.extend(check_variables(study, _REPORTING))

    def likely() -> None:
        warnings.extend(mistakes.mistakes(study))

    def template() -> None:
        params = example_params(study.space)
        check_environment(study, _REPORTING, params)
        check_contradictions(study)
        job_manifest(study, _REPORTING, 0, 0, params)

    def sampler() -> None:
        option_bounds.check(study)
        _sampler(study, unchecked)

    checks: list[Callable[[], object]] = [
        sampler,
        likely,
        variables,
        template,
        lambda: log_lines.build(study),
        lambda: initial_trials(study),
    ]
    said: set[str] = set()
    for one in checks:
        try:
            one()
        except Refused as refusal:
            if refusal.message not in said:
                said.add(refusal.message)
                yield _finding(refusal.message, True)
    yield from (_finding(warning, False) for warning in warnings)
    if study.warm_start:
        unchecked.append("spec.warmStart: whether those studies exist, and are of this namespace")


def _sampler(study: Study, unchecked: list[str]) -> None:
    """Build sampler, pruner and convergence test, as far as this machine has what they need.

    Raises:
        Refused: one cannot be built.
    """
    if study.sampler.cls is not None:
        unchecked.append(f"spec.sampler: whether the class {study.sampler.cls} is allowed, and its options")
        study = dataclasses.replace(study, sampler=Algorithm("Random", {}))
    try:
        optimizer.check(study, ())
    except Refused as refusal:
        if not refusal.reason.endswith("NotInstalled"):
            raise
        unchecked.append(f"whether the operator's image has what is needed: {refusal.message}")


def _finding(message: str, refused: bool) -> Finding:
    """Return a sentence of the operator as a finding about the field that it begins with."""
    words = message.split(" ", 1)
    path = words[0].rstrip(":")
    if path.startswith("spec.") and len(words) == 2:
        return Finding(path, words[1], refused)
    return Finding("", message, refused)
