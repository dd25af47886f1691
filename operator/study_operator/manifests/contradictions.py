"""Find fields of a Study and of its Job template that exclude each other, though each may be written.

A Study that was accepted before is not looked at again: it has trials, which go on as they did.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from study_operator.manifests.template import WHERE
from study_operator.model.study import Refused, Study


def check_contradictions(study: Study) -> None:
    """Check that no field keeps another one from having its effect.

    Raises:
        Refused: one does. The message says what to write instead.
    """
    spec = study.job_template["spec"]
    policy, in_place = spec.get("podFailurePolicy"), spec["template"]["spec"]["restartPolicy"] == "OnFailure"
    if in_place and study.infeasible_exit_codes:
        raise _invalid(
            f"spec.infeasibleExitCodes ends no trial with {WHERE}.template.spec.restartPolicy: OnFailure, because the "
            "kubelet restarts the program whatever its exit code is: write Never, or leave infeasibleExitCodes out and "
            "let the program call `study-trial infeasible`"
        )
    if in_place and policy is not None:
        raise _invalid(
            f"{WHERE}.podFailurePolicy needs {WHERE}.template.spec.restartPolicy: Never, because with OnFailure the "
            "kubelet restarts the program in its pod: write Never, or leave podFailurePolicy out"
        )
    if not in_place and spec.get("podReplacementPolicy") == "TerminatingOrFailed":
        raise _invalid(
            f"{WHERE}.podReplacementPolicy is TerminatingOrFailed, which Kubernetes does not allow beside a "
            "podFailurePolicy, and trials have one: write Failed, or leave it out"
        )
    if ignored := sorted(code for code in study.infeasible_exit_codes if _ignores(policy, code)):
        raise _invalid(
            f"{WHERE}.podFailurePolicy ignores the exit code {ignored[0]}, which is one of spec.infeasibleExitCodes, "
            "so that the program would be run again and again: write the action FailJob, or take it out of one of them"
        )


def _ignores(policy: Any, code: int) -> bool:
    """Return whether the first rule of a podFailurePolicy that is about an exit code ignores it.

    The API server judges a policy that is none.
    """
    rules = policy.get("rules") if isinstance(policy, Mapping) else None
    for rule in rules if isinstance(rules, list) else ():
        codes = rule.get("onExitCodes") if isinstance(rule, Mapping) else None
        if not isinstance(codes, Mapping) or not isinstance(codes.get("values"), list):
            continue
        if (code in codes["values"]) is (codes.get("operator") == "In"):
            return bool(rule.get("action") == "Ignore")
    return False


def _invalid(message: str) -> Refused:
    return Refused("JobTemplateInvalid", message)
