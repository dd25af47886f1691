"""Every example runs as it stands, to its end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from e2e import Cluster

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
# Those that other tests of this directory run, or `make test-variants`, which builds their images.
ELSEWHERE = {
    "digits": "test_demo.py",
    "minimal": "test_pods.py",
    "distributed": "test_pods.py",
    "checkpoints": "test_pods.py",
    "file-metrics": "test_pods.py",
    "stdout": "test_metrics.py",
    "warm-start": "test_warm_start.py",
    "plugins": "test_variants.py",
}
HERE = sorted({path.name for path in EXAMPLES.iterdir()} - set(ELSEWHERE))


def test_the_examples_run_to_their_end(cluster: Cluster):
    """All at once: most of their time they wait."""
    names = {example: _apply(cluster, example) for example in HERE}
    ends = {example: cluster.wait(name)["phase"] for example, name in names.items()}
    assert ends == dict.fromkeys(HERE, "Succeeded")


@pytest.mark.parametrize(("example", "module"), ELSEWHERE.items())
def test_no_example_is_forgotten(example: str, module: str):
    assert (EXAMPLES / example).is_dir()
    assert example in Path(__file__).with_name(module).read_text()


def _apply(cluster: Cluster, example: str) -> str:
    text = (EXAMPLES / example / "study.yaml").read_text().replace("study-trial:dev", cluster.images["study-trial"])
    manifest = yaml.safe_load(text)
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    return manifest["metadata"]["name"]
