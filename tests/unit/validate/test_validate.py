"""`study-operator validate`: what it says of files, without a cluster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from crd_rules import RULES, changed

from study_operator.validate import cel
from study_operator.validate.checks import findings
from study_operator.validate.command import validate
from study_operator.validate.documents import plain, read
from study_operator.validate.schema import Schema, check, defaulted, rules, study_schema

REPOSITORY = Path(__file__).resolve().parents[3]
EXAMPLES = sorted((REPOSITORY / "examples").glob("*/study*.yaml"))
SCHEMA = study_schema()
STUDY = """\
apiVersion: study-operator.io/v1alpha1
kind: Study
metadata: {name: digits}
spec:
  objectives:
  - {name: accuracy, direction: Maximize}
  parameters:
  - name: lr
    float: {low: 1e-5, high: 0.1}
  jobTemplate: {spec: {template: {spec: {containers: [{name: trial, image: "train:1"}]}}}}
"""


@pytest.fixture
def said(tmp_path, capsys):
    """Validates a text. Returns exit code and output, in which the file is called F."""

    def run(*texts: str) -> tuple[int, str]:
        files = []
        for place, text in enumerate(texts):
            file = tmp_path / f"{place}.yaml"
            file.write_text(text)
            files.append(str(file))
        code = validate(files)
        return code, capsys.readouterr().out.replace(f"{tmp_path}/0.yaml", "F")

    return run


# The schema and its rules


def walk(schema: Schema):
    yield schema
    inner = [*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")]
    for one in inner:
        if isinstance(one, dict):
            yield from walk(one)


def test_every_rule_can_be_read_here():
    known = [rule["rule"] for schema in walk(SCHEMA) for rule in schema.get("x-kubernetes-validations", ())]
    new = [rule for rule in known if "oldSelf" not in rule]
    assert len(new) > 25
    for rule in new:
        cel._Parser(rule).parse()


@pytest.mark.parametrize("rule", RULES)
def test_what_the_api_server_accepts_is_accepted(rule):
    study = changed(RULES[rule][0])
    assert list(check(study, SCHEMA)) == []
    complete = {**study, "spec": defaulted(study["spec"], SCHEMA["properties"]["spec"])}
    assert list(rules(complete, SCHEMA)) == []


@pytest.mark.parametrize("rule", RULES)
def test_what_the_api_server_refuses_is_refused(rule):
    _, change, message = RULES[rule]
    found, _ = findings(changed(change), SCHEMA)
    assert any(one.refused for one in found)
    sentences = [known["message"] for schema in walk(SCHEMA) for known in schema.get("x-kubernetes-validations", ())]
    if any(message in sentence for sentence in sentences):
        assert any(message in one.message for one in found), "a rule speaks in its own words"


@pytest.mark.parametrize("rule", ["self.x +", "self.x.frob()", "self.matches('a')", "a ? b", "1 2"])
def test_a_rule_that_cannot_be_evaluated_is_not_passed_over(rule):
    with pytest.raises(cel.Unsupported):
        cel.holds(rule, {"x": 1})


# YAML, as kubectl reads it


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("y", True),
        ("N", False),
        ("on", True),
        ("Off", False),
        ("~", None),
        ("1e-5", 1e-5),
        ("1_000", 1000),
        ("0x10", 16),
        ("010", 8),
        ("0o17", 15),
        ("-3", -3),
        (".5", 0.5),
        ("12:30:45", "12:30:45"),
        ("2030-01-02", "2030-01-02"),
        ("1.2.3", "1.2.3"),
        ("nan", "nan"),
    ],
)
def test_a_scalar_is_what_kubectl_takes_it_for(text, value):
    assert (plain(text), type(plain(text))) == (value, type(value))


def test_quotes_make_text_and_names_are_text():
    (document,) = read("a: 'y'\ny: 1\nb: \"3\"\nc: |\n  no\n")
    assert document.value == {"a": "y", "true": 1, "b": "3", "c": "no\n"}
    assert [document.line_of(path) for path in ("a", "true", "b", "c", "d")] == [1, 2, 3, 4, 1]


def test_anchors_merges_and_lists_are_read():
    (document,) = read("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: [*a]\n")
    assert document.value == {"a": {"x": 1, "true": 2}, "b": {"x": 3, "true": 2}, "c": [{"x": 1, "true": 2}]}
    assert [one.value for one in read("kind: List\nitems:\n- {a: 1}\n- {b: 2}\n")] == [{"a": 1}, {"b": 2}]


# Sentences


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        (
            "objectives:\n  - {name: accuracy, direction: Maximize}",
            "objectives: {name: accuracy, direction: Maximize}",
            5,
            'spec.objectives: is an object and must be a list: begin each item with "-", such as - {name:',
        ),
        (
            "name: lr",
            "name: y",
            8,
            "spec.parameters[0].name: is true and must be text: put what stands there in quotes",
        ),
        ("name: lr", "name: y", 8, "because YAML reads y, yes and on without quotes as true"),
        ("name: lr", "name: 3", 8, 'spec.parameters[0].name: is 3, a number, and must be text: put it in quotes, "3"'),
        (
            "1e-5",
            '"1e-5"',
            9,
            'spec.parameters[0].float.low: is the text "1e-5" and must be a number: remove the quotes',
        ),
        ("float: {low: 1e-5", "int: {low: 1.5", 9, "int.low: is 1.5 and must be a whole number"),
        (
            "float: {low: 1e-5, high: 0.1}",
            "categorical: {choices: [[64, 32], [1]]}",
            9,
            "spec.parameters[0].categorical.choices[0]: is a list, [64, 32], and must be text: put it in quotes",
        ),
        (
            "float: {low: 1e-5, high: 0.1}",
            "categorical: [adam, sgd]",
            9,
            'categorical: is a list and must be an object: write {choices: ["adam", "sgd"]}',
        ),
        (
            "  jobT",
            "  sampler: TPE\n  jobT",
            10,
            'spec.sampler: is the text "TPE" and must be an object: write {name: TPE}',
        ),
        ("  jobT", "  maxTrial: 3\n  jobT", 10, "spec.maxTrial: is no field: write maxTrials instead"),
        (
            "  jobT",
            "  maxTrials: '3'\n  jobT",
            10,
            'spec.maxTrials: is the text "3" and must be a whole number: remove the',
        ),
        (
            "  jobT",
            "  metrics: {from: File, path: /m/log, pattern: x}\n  jobT",
            10,
            "spec.metrics: pattern is for lines of text, that is from: Stdout, or from: File with format: Text",
        ),
        (
            "  jobT",
            "  metrics: {from: File, path: /m/log, format: Text, pattern: '(?P<name>[[:alpha:]])(?P<value>.)'}\n  jobT",
            10,
            "spec.metrics.pattern: has [:alpha:], which RE2 and Python's re read differently",
        ),
        ("  jobT", "  suspend: 'no'\n  jobT", 10, 'spec.suspend: is "no": write true or false, without quotes'),
        (
            "Maximize",
            "maximise",
            6,
            'direction: is "maximise": write Maximize instead',
        ),
        ("name: digits", "name: Digits", 3, "metadata.name: is 'Digits': write lower-case letters"),
        ("low: 1e-5", "low: 1", 9, "spec.parameters[0].float: low must not be greater than high: swap them"),
        (
            "  jobT",
            "  parallelism: 200\n  jobT",
            10,
            "spec.parallelism: parallelism must not be greater than maxTrials",
        ),
        (
            "  jobT",
            "  sampler: {name: TPE, options: {n_startup_trials: '5'}}\n  jobT",
            10,
            "spec.sampler: option 'n_startup_trials' of sampler TPE is '5'; it must be a whole number",
        ),
        (
            "  jobT",
            "  pruner: {name: Median, options: {m: 1}}\n  jobT",
            10,
            "spec.pruner: pruner Median has no option 'm'",
        ),
        ("high: 0.1", "high: 1, step: 2", 8, "spec.parameters[0]: step is 2,"),
        (
            'image: "train:1"',
            'image: "train:1", args: ["$(PARAM_Lr)"]',
            10,
            "spec.jobTemplate.spec.template.spec.containers[0].args[0]: refers to $(PARAM_Lr), which no trial has",
        ),
        (
            'image: "train:1"',
            'image: "train:1", env: [{name: A, value: 3}]',
            10,
            'containers[0].env[0].value: is 3, a number, and must be text: put it in quotes, "3"',
        ),
        (
            "  jobT",
            "  initialTrials: [{y: 0.5}]\n  jobT",
            10,
            "there is no parameter 'true'; there are lr; without quotes, YAML reads y, n and on as",
        ),
    ],
)
def test_a_mistake_is_a_sentence_with_its_line(said, old, new, line, words):
    assert old in STUDY
    code, output = said(STUDY.replace(old, new))
    assert code == 1
    found = [text for text in output.splitlines() if ": error: " in text]
    assert any(text.startswith(f"F:{line}: error: ") and words in text for text in found), output


def test_a_warning_is_no_refusal(said):
    code, output = said(STUDY.replace("name: accuracy", "name: accuracy, goal: 95"))
    assert code == 0
    assert "warning: the goal of 'accuracy' is 95.0" in output
    assert "F:1: Study digits can be run, as far as checked" in output


def test_what_only_the_api_server_knows_is_listed(said):
    _, output = said(STUDY)
    rest = output.partition("\nnot checked:\n")[2]
    assert rest.startswith("  - what only the API server knows: the fields of spec.jobTemplate; ")


def test_several_documents_are_several_studies(said):
    other = "kind: ConfigMap\napiVersion: v1\n"
    code, output = said(
        "---\n".join([other, STUDY, "", STUDY.replace("low: 1e-5", "low: 1").replace("digits", "worse")])
    )
    assert code == 1
    assert "F:4: Study digits can be run" in output
    assert "F:24: error: spec.parameters[0].float: low" in output
    assert "Study worse would be refused, 1 error" in output


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind: Pod\n", "has no Study"),
        (
            "kind: Experiment\napiVersion: kubeflow.org/v1beta1\n",
            "but an Experiment of Katib: docs/coming-from-katib.md",
        ),
        ("a: [", "cannot be read"),
        ("", "has no Study"),
        ("a: .inf\n", "no number"),
    ],
)
def test_a_file_without_a_study_is_another_exit_code(said, text, words):
    code, output = said(text)
    assert (code, words in output) == (2, True)


def test_a_file_that_is_not_there(capsys):
    assert validate(["/none"]) == 2
    assert "No such file" in capsys.readouterr().out


def test_another_version_of_the_api_is_named(said):
    code, output = said(STUDY.replace("v1alpha1", "v1"))
    assert code == 1
    assert "apiVersion: must be study-operator.io/v1alpha1, with the kind Study" in output


def test_a_field_that_is_given_twice_is_named(said):
    code, output = said(STUDY.replace("  jobT", "  maxTrials: 3\n  maxTrials: 4\n  jobT"))
    assert (code, "F:11: warning: spec.maxTrials: is given twice" in output) == (0, True)


def test_escape_sequences_do_not_reach_the_terminal(said):
    _, output = said(STUDY.replace("name: lr", 'name: "\\e[31m"'))
    assert "\x1b" not in output


@pytest.mark.parametrize(
    "example", sorted((REPOSITORY / "examples").glob("*/study*.yaml")), ids=lambda p: p.parent.name
)
def test_the_examples_are_valid(example, capsys):
    assert validate([str(example)]) == 0
    assert "warning" not in capsys.readouterr().out


def test_the_command_needs_no_settings(tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY)
    command = [sys.executable, "-m", "study_operator", "validate", "-"]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{REPOSITORY}/operator"}
    done = subprocess.run(command, input=STUDY, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("-:1: Study digits can be run")


def test_a_reader_that_has_seen_enough_is_no_traceback(tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY)
    command = f"{sys.executable} -m study_operator validate study.yaml | true"
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{REPOSITORY}/operator"}
    done = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
