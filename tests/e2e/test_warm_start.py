"""The example of two studies, of which the second begins with what the first has found out."""

from __future__ import annotations

from pathlib import Path

from e2e import Cluster

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/warm-start"


def _apply(cluster: Cluster, file: str, earlier: str = "") -> None:
    text = (EXAMPLE / file).read_text().replace("study-trial:dev", cluster.images["study-trial"])
    cluster.kubectl("apply", "-f", "-", stdin=text.replace("[EARLIER]", f"[{earlier}]"))


def test_the_second_study_begins_with_the_trials_of_the_first(cluster):
    _apply(cluster, "study.yaml")
    first = cluster.wait("first", seconds=300)
    assert first["trials"]["complete"] == 12
    params = cluster.sql(
        "SELECT t.number, p.param_name, p.param_value FROM trial_params p JOIN trials t USING (trial_id)"
        f" JOIN studies s USING (study_id) WHERE s.study_name = '{first['studyName']}'"
        " AND (t.number, p.param_name) IN ((0, 'lr'), (0, 'layers'), (1, 'momentum')) ORDER BY 1, 2"
    )
    assert params.split() == ["0|layers|2", "0|lr|0.001", "1|momentum|0.9"]

    _apply(cluster, "continued.yaml", first["studyName"])
    second = cluster.wait("continued", seconds=300)

    assert second["warmStart"] == [{"study": first["studyName"], "taken": 12, "left": 0}]
    assert second["trials"]["total"] == 6
