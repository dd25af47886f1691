"""Add volumes to a trial's pod."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

from study_operator.model.study import Refused

# User and group of the trial image (USER in trial-image/Dockerfile).
TRIAL_IMAGE_ID = 65532


def containers(pod: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield all containers of a pod, in the order in which they start."""
    yield from pod.get("initContainers") or ()
    yield from pod["containers"]


def mount_in_all(pod: dict[str, Any], volume: Mapping[str, Any], mount: Mapping[str, Any], field: str) -> None:
    """Add a volume to a pod and mount it in every container.

    Args:
        pod: the pod's spec; it is changed.
        volume: the volume without its name.
        mount: the mount, with the volume's name.
        field: who asks for the volume, for messages: a field of the Study, or the operator.

    Raises:
        Refused: the template has a volume of that name, or mounts something else at that path.
    """
    name, path = mount["name"], mount["mountPath"]
    if any(other.get("name") == name for other in pod.get("volumes") or ()):
        raise Refused("JobTemplateInvalid", f"the jobTemplate has a volume {name!r}, and so has {field}: rename it")
    for container in containers(pod):
        if (taken := mounted_at(container, path)) is not None:
            raise Refused(
                "JobTemplateInvalid",
                f"container {container.get('name')!r} of the jobTemplate mounts {taken.get('name')!r} at {path}, where "
                f"{field} has its directory: choose another path for one of them",
            )
        container["volumeMounts"] = [*(container.get("volumeMounts") or ()), dict(mount)]
    pod["volumes"] = [*(pod.get("volumes") or ()), {"name": name, **volume}]


def mounted_at(container: Mapping[str, Any], path: str) -> Mapping[str, Any] | None:
    """Return what a container mounts at exactly this path."""
    return next((mount for mount in container.get("volumeMounts") or () if _path(mount) == _normal(path)), None)


def mounted_above(container: Mapping[str, Any], path: str) -> Mapping[str, Any] | None:
    """Return what a container mounts at this path or nearest above it, which is where the path's files are."""
    above = [
        m for m in container.get("volumeMounts") or () if _path(m) and (_normal(path) + "/").startswith(_path(m) + "/")
    ]
    return max(above, key=lambda mount: len(_path(mount)), default=None)


def _path(mount: Mapping[str, Any]) -> str:
    path = mount.get("mountPath")
    return _normal(path) if isinstance(path, str) else ""


def _normal(path: str) -> str:
    return posixpath.normpath(path).rstrip("/")
