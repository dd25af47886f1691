"""`kubectl study init`: what scripts have, and the Study that comes of it. Scripts are never run."""

from __future__ import annotations

import argparse
import textwrap

import pytest
import yaml

from study_client.begin.command import init
from study_client.begin.manifest import written
from study_client.begin.scripts import found_in
from study_client.errors import ClientError
from study_operator.validate.command import validate

OPTIONS = """
    import argparse
    raise SystemExit("it was run")
    parser = argparse.ArgumentParser()
    parser.add_argument("-l", "--lr", type=float, default=0.001)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--dropout", default=0.1, type=float)
    parser.add_argument("--optimizer", choices=["adam", "sgd", "=x"], default="adam")
    parser.add_argument("--data-dir", default="/data")
    parser.add_argument("--use-amp", action="store_true")
    parser.add_argument("--wd", type=float)
    parser.add_argument("input")
"""
OBJECTIVE = """
    import optuna
    def objective(trial):
        lr = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
        layers = trial.suggest_int("layers", low=1, high=8, step=1)
        kind = trial.suggest_categorical("kind", ["a", None, 3])
        old = trial.suggest_discrete_uniform("old", 0, 1, 0.25)
        for layer in range(layers):
            trial.suggest_int(f"units{layer}", 4, 64)
        trial.suggest_float("computed", 0, HIGH)
        return 0
    study = optuna.create_study(direction="maximize")
"""


def study_of(source: str) -> tuple[dict, list[str], str]:
    text, checks = written(found_in(textwrap.dedent(source), "train.py"), "train.py")
    return yaml.safe_load(text), checks, text


def test_options_become_parameters_and_arguments():
    study, checks, _ = study_of(OPTIONS)
    spec = study["spec"]
    assert [one["name"] for one in spec["parameters"]] == ["lr", "batch_size", "dropout", "optimizer", "use-amp", "wd"]
    assert spec["parameters"][0] == {"name": "lr", "float": {"low": 1e-05, "high": 0.01, "log": True}}
    container = spec["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    assert container["args"] == [
        *("--lr=$(PARAM_lr)", "--batch-size=$(PARAM_batch_size)", "--dropout=$(PARAM_dropout)"),
        *("--optimizer=$(PARAM_optimizer)", "$(PARAM_use_amp_FLAG)", "--wd=$(PARAM_wd)"),
    ]
    assert spec["metrics"] == {"from": "Stdout"}
    for said in ("--epochs is not tuned", "--data-dir has a text", "the range of lr is guessed from the default 0.001"):
        assert any(said in check for check in checks), said


def test_suggest_calls_are_taken_as_they_stand():
    study, checks, _ = study_of(OBJECTIVE)
    assert study["spec"]["objectives"] == [{"name": "value", "direction": "Maximize"}]
    assert study["spec"]["parameters"] == [
        {"name": "lr", "float": {"low": 1e-05, "high": 0.1, "log": True}},
        {"name": "layers", "int": {"low": 1, "high": 8, "step": 1}},
        {"name": "kind", "categorical": {"choices": ["a", None, 3]}},
        {"name": "old", "float": {"low": 0.0, "high": 1.0, "step": 0.25}},
    ]
    for said in ("its name is computed", "its range is computed", "study_trial.run(objective)"):
        assert any(said in check for check in checks), said


@pytest.mark.parametrize("source", [OPTIONS, OBJECTIVE])
def test_the_study_is_valid(source: str, tmp_path, capsys):
    (tmp_path / "study.yaml").write_text(study_of(source)[2])
    assert validate([str(tmp_path / "study.yaml")]) == 0, capsys.readouterr().out


def test_the_options_are_those_that_the_script_takes():
    parser = argparse.ArgumentParser()
    parser.add_argument("--use-amp", action="store_true")
    study, _, _ = study_of('import argparse\np.add_argument("--use-amp", action="store_true")')
    (parameter,) = study["spec"]["parameters"]
    assert parser.parse_args([f"--{parameter['name']}"]).use_amp


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def f(:", "line 1 is no Python program"),
        ("print(1)", "neither argparse options of numbers or choices, nor suggest_* calls"),
        ("t.suggest_float(name, 0, 1)", "its name is computed"),
        ('p.add_argument("--epochs", type=int)', "no option that makes a better model"),
        ("(" * 5000, "no Python program"),
    ],
)
def test_what_cannot_be_read_is_said(source: str, said: str):
    with pytest.raises(ClientError, match=said.replace("*", r"\*")):
        written(found_in(source, "train.py"), "train.py")


def test_no_file_is_written_over(tmp_path):
    script, study = tmp_path / "train.py", tmp_path / "study.yaml"
    script.write_text('p.add_argument("--lr", type=float)')
    study.write_text("mine")
    with pytest.raises(ClientError, match="is there already"):
        init(str(script), str(study))
    assert study.read_text() == "mine"
