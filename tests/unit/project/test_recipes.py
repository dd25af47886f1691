"""The names under which images are built and pushed: what the chart makes of operator.image must be one of them."""

from __future__ import annotations

import pytest
from chart import REPOSITORY, pod_specs, render


@pytest.fixture
def recipes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "hack/local-cluster"))
    import recipes

    return recipes


def test_a_pushed_variant_is_what_the_chart_asks_for(recipes, tmp_path):
    contexts = recipes.Contexts(tmp_path, published=True)
    usual, variant = contexts.image("study-operator"), contexts.image("study-operator-gp")
    tag = usual.removeprefix("study-operator:")
    pods = pod_specs(render(f"operator.image.tag={tag}", "operator.image.variant=gp"))
    assert variant == pods["Deployment/study-operator"]["containers"][0]["image"]


def test_here_a_variant_differs_by_its_base_image(recipes, tmp_path):
    contexts = recipes.Contexts(tmp_path)
    usual, variant = contexts.image("study-operator"), contexts.image("study-operator-gp")
    assert variant.startswith("study-operator:")
    assert variant.endswith("-gp")
    assert variant != f"{usual}-gp"


def test_images_that_take_minutes_are_not_built_unasked(recipes):
    usual = set(recipes.PROJECT) - set(recipes.ON_DEMAND)
    parents = {parent for name in usual for parent in recipes.PROJECT[name].parents.values()}
    assert parents <= usual | {"study-base"}
    assert set(recipes.NODE) == {"study-pause", "study-base"}
