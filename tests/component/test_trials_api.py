"""The trials API behind a real API server: what kubectl shows of it, and what clients are answered.

One API server and one database serve all tests here; each test has a namespace of its own.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator

import pytest
from aggregated import API_SERVICE, BASE, Aggregated, StudyRows, aggregated
from optuna.trial import TrialState


@pytest.fixture(scope="module")
def api(own_services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aggregated]:
    with aggregated(own_services, tmp_path_factory.mktemp("api")) as opened:
        yield opened


@pytest.fixture(scope="module")
def study(api: Aggregated) -> StudyRows:
    """A study of each kind of trial; tests that only read share it."""
    rows = api.study(api.namespace())
    rows.add(0.5, lr=0.25, layers=3, optimizer="\x1b[31mred", reports={1: 0.25, 2: 0.5}, attributes={"note": "a\nb"})
    rows.add(1.0, lr=1.0, layers=4, optimizer="sgd")
    rows.add(-3.0, lr=0.5, layers=4, optimizer=None)
    rows.add(state=TrialState.PRUNED, lr=0.75, reports={1: float("inf")})
    rows.add(float("inf"), lr=0.125)
    rows.add(state=TrialState.RUNNING, lr=0.0625)
    return rows


@pytest.fixture(scope="module")
def many(api: Aggregated) -> str:
    """A namespace with twelve trials of two studies."""
    namespace = api.namespace()
    for name, count in (("a", 7), ("b", 5)):
        study = api.study(namespace, name)
        for _ in range(count):
            study.add(1.0)
    return namespace


@pytest.fixture
def kubectl(api: Aggregated, study: StudyRows):
    """kubectl in the namespace of that study: a command's lines, split into words."""

    def lines(*words: str) -> list[list[str]]:
        return [line.split() for line in api.kubectl.ok(*words, "-n", study.namespace).splitlines()]

    return lines


class TestKubectl:
    def test_get(self, kubectl):
        head, *rows = kubectl("get", "studytrials")
        assert head == ["NAME", "STUDY", "STATE", "VALUE", "DURATION", "AGE"]
        assert [row[:4] for row in rows] == [
            ["digits-0", "digits", "Complete", "0.5"],
            ["digits-1", "digits", "Complete", "1"],
            ["digits-2", "digits", "Complete", "-3"],
            ["digits-3", "digits", "Pruned", "<none>"],
            ["digits-4", "digits", "Complete", "inf"],
            ["digits-5", "digits", "Running", "<none>"],
        ]

    def test_wide_shows_no_escape_sequence(self, api, study):
        shown = api.kubectl.ok("get", "stt", "-o", "wide", "-n", study.namespace)
        assert shown.splitlines()[0].split()[6:] == ["PARAMETERS", "JOB", "REASON"]
        assert "lr=0.25, layers=3, optimizer=\\x1b[31mred" in shown
        assert "\x1b" not in shown

    def test_names_and_columns(self, kubectl):
        assert kubectl("get", "stt", "-o", "name")[0] == ["studytrial.results.study-operator.io/digits-0"]
        columns = "N:.metadata.name,V:.status.value,S:.status.values[0],L:.spec.parameters.layers"
        assert kubectl("get", "stt", "-o", f"custom-columns={columns}")[1:5] == [
            ["digits-0", "0.5", "0.5", "3"],
            ["digits-1", "1.0000000000000002", "1.0", "4"],
            ["digits-2", "-2.9999999999999996", "-3.0", "4"],
            ["digits-3", "<none>", "<none>", "<none>"],
        ]
        (words,) = kubectl("get", "stt", "-o", "jsonpath={.items[*].status.state}")
        assert words == ["Complete"] * 3 + ["Pruned", "Complete", "Running"]

    @pytest.mark.parametrize("output", [(), ("-o", "name"), ("-o", "wide")])
    def test_sorted_by_value(self, kubectl, output):
        """Whole numbers and broken ones are compared, where kubectl would give up."""
        rows = kubectl("get", "stt", "--sort-by=.status.value", "--field-selector=status.state=Complete", *output)
        names = [row[0].rpartition("/")[2] for row in rows if row[0] != "NAME"]
        assert [name for name in names if name != "digits-4"] == ["digits-2", "digits-0", "digits-1"]

    def test_sorted_by_a_parameter(self, kubectl):
        rows = kubectl("get", "stt", "--sort-by=.spec.parameters.lr", "--no-headers")
        assert [row[0][-1] for row in rows] == ["5", "4", "0", "2", "3", "1"]

    def test_selected(self, kubectl):
        def names(*words: str) -> str:
            return "".join(row[0][-1] for row in kubectl("get", "stt", "--no-headers", *words))

        assert names("-l", "study-operator.io/study=digits") == "012345"
        assert names("-l", "study-operator.io/study in (digits,other),study-operator.io/trial!=3") == "01245"
        assert names("-l", "study-operator.io/study=other") == ""
        assert names("--field-selector", "status.state=Pruned") == "3"
        assert names("--field-selector", "status.state!=Complete") == "35"
        assert names("--field-selector", "metadata.name=digits-1") == "1"
        assert names("--field-selector", "spec.study=digits,status.state=Running") == "5"
        assert names("digits-2", "digits-0") == "20"

    def test_what_it_refuses(self, api, study):
        def refused(*words: str) -> str:
            return api.kubectl.refused("get", "stt", "-n", study.namespace, *words)

        assert 'studytrials.results.study-operator.io "digits-99" not found' in refused("digits-99")
        assert "field label not supported" in refused("--field-selector", "status.phase=x")
        assert "MethodNotAllowed" in api.kubectl.refused("delete", "stt", "digits-0", "-n", study.namespace)

    def test_describe_and_explain(self, api, study):
        described = api.kubectl.ok("describe", "stt", "digits-0", "-n", study.namespace)
        assert "\x1b" not in described
        for words in ("Layers:", "Values:", "Last Report:", "Owner References:"):
            assert words in described
        explained = api.kubectl.ok("explain", "studytrial.status.value")
        assert "to sort by" in explained
        assert "recursive" not in explained
        assert "parameters" in api.kubectl.ok("explain", "stt.spec")
        assert "blocks" in api.kubectl.ok("explain", "studytrialsets")

    def test_api_resources(self, api):
        found = api.kubectl.ok("api-resources", "--api-group=results.study-operator.io", "--no-headers", "-o", "wide")
        resources = {line.split()[0]: line.split() for line in found.splitlines()}
        assert set(resources) == {"studytrials", "studytrialsets"}
        assert resources["studytrials"][1] == "stt"
        assert "get,list,watch" in resources["studytrials"]

    def test_the_study_is_still_the_first_of_its_name(self, api):
        assert "studies" not in api.kubectl.ok("get", "--raw", BASE)


class TestObjects:
    def test_a_trial(self, api, study):
        trial = api.get(f"/namespaces/{study.namespace}/studytrials/digits-0")
        assert trial["kind"] == "StudyTrial"
        assert trial["metadata"]["labels"] == {"study-operator.io/study": "digits", "study-operator.io/trial": "0"}
        (owner,) = trial["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["uid"]) == ("Study", "digits", study.uid)
        parameters = {"lr": 0.25, "layers": 3, "optimizer": "\x1b[31mred"}
        assert trial["spec"] == {"study": "digits", "number": 0, "parameters": parameters}
        status = trial["status"]
        assert (status["state"], status["value"], status["values"]) == ("Complete", 0.5, ["0.5"])
        assert status["lastReport"] == {"step": 2, "value": "0.5"}
        assert status["attributes"] == {"note": "a\nb"}
        assert status["attempts"] == 0, "a notebook ran it"

    def test_values_that_are_no_finite_numbers(self, api, study):
        infinite = api.get(f"/namespaces/{study.namespace}/studytrials/digits-4")["status"]
        assert infinite["values"] == ["inf"]
        assert "value" not in infinite
        reports = api.get(f"/namespaces/{study.namespace}/studytrials/digits-3/reports")
        assert (reports["steps"], reports["values"]) == ([1], ["inf"])

    def test_several_objectives_have_no_value_to_sort_by(self, api):
        study = api.study(api.namespace(), objectives=2)
        study.add(0.5, 2.0)
        status = api.get(f"/namespaces/{study.namespace}/studytrials/digits-0")["status"]
        assert status["values"] == ["0.5", "2.0"]
        assert "value" not in status

    def test_reports(self, api, study):
        found = api.get(f"/namespaces/{study.namespace}/studytrials/digits-0/reports")
        assert (found["kind"], found["steps"], found["values"]) == ("StudyTrialReports", [1, 2], [0.25, 0.5])

    def test_a_whole_study(self, api, study):
        found = api.get(f"/namespaces/{study.namespace}/studytrialsets/digits")
        assert found["objectives"] == [{"name": "", "direction": "Maximize"}]
        (block,) = found["blocks"]
        assert block["number"] == list(range(6))
        assert block["values"] == [[0.5], [1.0], [-3.0], [], ["inf"], []]
        assert block["parameters"]["optimizer"] == ["\x1b[31mred", "sgd", None, None, None, None]
        assert block["absent"]["parameters"]["optimizer"] == [3, 4, 5], "trial 2 has it: its choice is null"
        assert block["reports"]["values"][0] == [0.25, 0.5]
        without = api.get(f"/namespaces/{study.namespace}/studytrialsets/digits?reports=false")
        assert "reports" not in without["blocks"][0]
        names = [item["metadata"]["name"] for item in api.get(f"/namespaces/{study.namespace}/studytrialsets")["items"]]
        assert names == ["digits"]
        assert "digits" in api.kubectl.ok("get", "studytrialsets", "-n", study.namespace)

    def test_a_whole_study_of_none_and_of_nobody(self, api):
        namespace = api.namespace()
        api.study(namespace, "empty")
        assert api.get(f"/namespaces/{namespace}/studytrialsets/empty")["blocks"] == []
        assert "not found" in api.kubectl.refused("get", "--raw", f"{BASE}/namespaces/{namespace}/studytrialsets/none")


def test_trials_of_a_deleted_study(api):
    """They are shown to who asks for them, by a name that no trial of another Study has."""
    namespace = api.namespace()
    old = api.study(namespace)
    old.add(0.5)
    old.forget()
    new = api.study(namespace)
    new.add(0.25)
    (shown,) = api.get(f"/namespaces/{namespace}/studytrials")["items"]
    assert (shown["metadata"]["name"], shown["status"]["value"]) == ("digits-0", 0.25)
    query = "labelSelector=study-operator.io/deleted=true"
    (gone,) = api.get(f"/namespaces/{namespace}/studytrials?{query}")["items"]
    name = f"digits-0-{old.uid[:8]}"
    assert (gone["metadata"]["name"], gone["status"]["value"]) == (name, 0.5)
    assert "ownerReferences" not in gone["metadata"]
    assert api.get(f"/namespaces/{namespace}/studytrials/{name}")["status"]["value"] == 0.5
    (whole,) = api.get(f"/namespaces/{namespace}/studytrialsets?{query}")["items"]
    found = api.get(f"/namespaces/{namespace}/studytrialsets/{whole['metadata']['name']}")
    assert found["blocks"][0]["values"] == [[0.5]]


class TestPages:
    def test_one_after_the_other(self, api, many):
        found, versions, query = [], set(), "?limit=5"
        while True:
            page = api.get(f"/namespaces/{many}/studytrials{query}")
            found.append([item["metadata"]["name"] for item in page["items"]])
            versions.add(page["metadata"]["resourceVersion"])
            if not (rest := page["metadata"].get("continue")):
                break
            query = f"?limit=5&continue={rest}"
        assert [len(page) for page in found] == [5, 5, 2]
        assert [name for page in found for name in page] == [f"a-{n}" for n in range(7)] + [f"b-{n}" for n in range(5)]
        assert len(versions) == 1

    def test_with_kubectl(self, api, many):
        shown = api.kubectl.ok("get", "stt", "--chunk-size=4", "--no-headers", "-n", many)
        assert len(shown.splitlines()) == 12

    def test_a_token_of_another_list_is_refused(self, api, many):
        rest = api.get(f"/namespaces/{many}/studytrials?limit=5")["metadata"]["continue"]
        for query in (f"continue={rest}&labelSelector=a=b", "continue=nonsense"):
            path = f"{BASE}/namespaces/{many}/studytrials?limit=5&{query}"
            assert "continue key" in api.kubectl.refused("get", "--raw", path)

    def test_few_of_many_are_found(self, api, many):
        query = "?limit=2&labelSelector=study-operator.io/trial+notin+(0,1,2,3,4)"
        page = api.get(f"/namespaces/{many}/studytrials{query}")
        assert [item["metadata"]["name"] for item in page["items"]] == ["a-5", "a-6"]

    def test_a_later_state_than_there_is(self, api, many):
        path = f"{BASE}/namespaces/{many}/studytrials?resourceVersion=9000000000000000"
        assert "Too large resource version" in api.kubectl.refused("get", "--raw", path)
        assert len(api.get(f"/namespaces/{many}/studytrials?resourceVersion=0")["items"]) == 12


def test_discovery_is_current_and_answers_to_old_and_new(api):
    groups = json.loads(api.kubectl.ok("get", "--raw", "/apis"))["groups"]
    assert "results.study-operator.io" in [group["name"] for group in groups]
    assert json.loads(api.kubectl.ok("get", "--raw", "/apis/results.study-operator.io"))["kind"] == "APIGroup"
    v3 = json.loads(api.kubectl.ok("get", "--raw", f"/openapi/v3{BASE}"))
    assert "io.study-operator.results.v1alpha1.StudyTrial" in v3["components"]["schemas"]
    v2 = api.kubectl.ok("get", "--raw", "/openapi/v2")
    assert "io.study-operator.results.v1alpha1.StudyTrial" in v2


class TestRights:
    def test_who_may_view_a_namespace_sees_that_one_alone(self, api, study):
        other = api.study(api.namespace())
        other.add(1.0)
        role = ("--clusterrole=study-operator-trials-view", "--user=anna", "-n", study.namespace)
        api.kubectl.ok("create", "rolebinding", "anna", *role)
        anna = api.user("anna")
        assert "digits-0" in anna.ok("get", "stt", "-n", study.namespace)
        assert anna.ok("get", "stt", "digits-0", "-n", study.namespace)
        assert anna.ok("get", "--raw", f"{BASE}/namespaces/{study.namespace}/studytrialsets/digits")
        assert anna.ok("get", "--raw", f"{BASE}/namespaces/{study.namespace}/studytrials/digits-0/reports")
        for where in (("-n", other.namespace), ("-A",)):
            assert "forbidden" in anna.refused("get", "stt", *where)
        assert anna.ok("auth", "can-i", "list", "stt", "-n", study.namespace).strip() == "yes"
        assert anna.run("auth", "can-i", "list", "stt", "-n", other.namespace).stdout.strip() == "no"

    def test_all_namespaces(self, api, study):
        shown = api.kubectl.ok("get", "stt", "-A", "--no-headers")
        assert study.namespace in shown


def test_compressed(api, study):
    """As client-go asks for it."""
    with api.proxied() as get:
        path = f"{BASE}/namespaces/{study.namespace}/studytrialsets/digits"
        headers, body = get(path, {"Accept-Encoding": "gzip"})
        assert headers["Content-Encoding"] == "gzip"
        assert json.loads(gzip.decompress(body))["kind"] == "StudyTrialSet"
        headers, body = get(path, {"Accept-Encoding": "identity"})
        assert json.loads(body)["kind"] == "StudyTrialSet"
        accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
        _, body = get(f"{BASE}/namespaces/{study.namespace}/studytrials", {"Accept": accept})
        found = json.loads(body)
        assert (found["kind"], len(found["items"]), set(found["items"][0])) == (
            "PartialObjectMetadataList",
            6,
            {"kind", "apiVersion", "metadata"},
        )


def test_the_api_server_calls_it_available(api):
    condition = api.kubectl.ok("get", "apiservice", API_SERVICE, "--no-headers").split()
    assert condition[2] == "True"
