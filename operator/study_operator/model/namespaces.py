"""Say in which namespaces Studies are refused: in those of Kubernetes, and in the operator's own."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from study_operator.model.study import Refused, StudyKey

_KUBERNETES = "kube-"


@dataclass(frozen=True)
class Reserved:
    """The namespaces whose Secrets and ServiceAccounts are not for tenants.

    A Study can run pods with any of them, by the operator's rights. There a right to create Studies, which is easily
    given away, would be a right to everything.

    Attributes:
        own: the namespace that the operator runs in; None if it does not know.
        test: the Study of the chart's own test, which may be there.
        allowed: namespaces of this kind in which Studies are wanted.
    """

    own: str | None = None
    test: StudyKey | None = None
    allowed: Collection[str] = ()

    def check(self, key: StudyKey) -> None:
        """Check the namespace of a Study.

        Raises:
            Refused: Studies are not wanted there.
        """
        whose = None
        if key.namespace.startswith(_KUBERNETES):
            whose = "one of Kubernetes itself"
        elif key.namespace == self.own and key != self.test:
            whose = "the operator's own"
        if whose is not None and key.namespace not in self.allowed:
            raise Refused(
                "NamespaceReserved",
                f"the namespace {key.namespace} is {whose}, where a Study could use Secrets and ServiceAccounts that "
                "are not for tenants: create the Study in another namespace, or ask whoever installed the operator to "
                "add this one to allowedNamespaces in the chart's values",
            )
