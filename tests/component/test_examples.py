"""Every Study under examples/ and of the pages is accepted as it stands, and so is the Job of its first trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from documented import studies
from world import World

from study_operator.kube.api_server import ApiError
from study_operator.manifests.job import Reporting, job_manifest
from study_operator.model.search_space import example_params
from study_operator.model.study import parse

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
STUDIES = {str(path.relative_to(EXAMPLES).parent): path for path in sorted(EXAMPLES.rglob("study.yaml"))}


async def accepted_job(world: World, manifest: dict[str, Any]) -> dict[str, Any]:
    """The Job of the first trial of a Study, as the API server has accepted both."""
    manifest["metadata"]["namespace"] = world.namespace
    query = {"fieldValidation": "Strict", "dryRun": "All"}
    study = parse(await world.cluster._call("POST", world._path("studies"), query, manifest))
    reporting = Reporting("postgresql://reporter@db/studies", "key", image="study-trial:dev")
    made = job_manifest(study, reporting, 0, 0, example_params(study.space))
    await world.cluster.create_job(made, dry_run=True)
    return made


@pytest.mark.parametrize("example", STUDIES)
async def test_an_example_is_accepted(world: World, example: str) -> None:
    made = await accepted_job(world, yaml.safe_load(STUDIES[example].read_text()))
    for container in made["spec"]["template"]["spec"]["containers"]:
        command = [*(container.get("command") or ()), *(container.get("args") or ())]
        if command[:2] == ["python", "-c"]:
            compile(command[2], f"examples/{example}", "exec")


async def test_the_studies_of_the_pages_are_accepted(world: World) -> None:
    refused = {}
    for place, manifest in studies().items():
        try:
            await accepted_job(world, manifest)
        except ApiError as error:
            refused[place] = str(error)
    assert refused == {}
