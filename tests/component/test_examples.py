"""Every Study under examples/ is accepted as it stands, and so is the Job of its first trial."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from world import World

from study_operator.manifests.job import Reporting, job_manifest
from study_operator.model.study import parse

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
STUDIES = {str(path.relative_to(EXAMPLES).parent): path for path in sorted(EXAMPLES.rglob("study.yaml"))}


@pytest.mark.parametrize("example", STUDIES)
async def test_an_example_is_accepted(world: World, example: str) -> None:
    manifest = yaml.safe_load(STUDIES[example].read_text())
    manifest["metadata"]["namespace"] = world.namespace
    query = {"fieldValidation": "Strict"}
    study = parse(await world.cluster._call("POST", world._path("studies"), query, manifest))
    reporting = Reporting("postgresql://reporter@db/studies", "key", image="study-trial:dev")
    made = job_manifest(study, reporting, 0, 0, {})
    await world.cluster.create_job(made, dry_run=True)
    for container in made["spec"]["template"]["spec"]["containers"]:
        command = [*(container.get("command") or ()), *(container.get("args") or ())]
        if command[:2] == ["python", "-c"]:
            compile(command[2], f"examples/{example}", "exec")
