"""The Helm chart as text: what `helm template` makes of values, and which values it refuses."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from chart import CHART, REPOSITORY, HelmError, helm, kinds, one, pod_specs, render, render_error

from study_operator.model import gpus
from study_operator.reconcile.acceptance import reserved
from study_operator.settings import Limits, Settings

EXTERNAL = (
    "database.mode=external",
    "database.external.host=db.example.com",
    "database.external.existingSecret=database-login",
    "database.external.ca.secretName=database-ca",
)
OWN_SECRETS = ("secrets.existingSecret=operator-keys",)
NAMESPACED = ("watchNamespaces={team-a,team-b}",)
SELECTED = (
    "watchNamespaceSelector.matchLabels.studies=yes",
    *(
        f"watchNamespaceSelector.matchExpressions[{number}].{field}"
        for number, expression in enumerate(
            [
                ("key=team", "operator=In", "values={a,b}"),
                ("key=tier", "operator=NotIn", "values={x}"),
                ("key=gpus", "operator=Exists"),
                ("key=frozen", "operator=DoesNotExist"),
            ]
        )
        for field in expression
    ),
)
SERVICE_MONITOR = ("metrics.serviceMonitor.enabled=true", "metrics.serviceMonitor.labels.release=prometheus")
APP_VERSION = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
VARIANTS = {
    "default": (),
    "external": EXTERNAL,
    "namespaced": NAMESPACED,
    "selected": SELECTED,
    "everything": (
        *EXTERNAL,
        *OWN_SECRETS,
        *NAMESPACED,
        *SERVICE_MONITOR,
        "imagePullSecrets[0].name=registry",
    ),
}


def environment(objects: list[dict], container: str = "operator") -> dict[str, dict]:
    """The environment of a container of the operator's pod, by name of the variable."""
    pod = one(objects, "Deployment")["spec"]["template"]["spec"]
    found = [c for c in pod["containers"] + pod["initContainers"] if c["name"] == container]
    return {e["name"]: e for e in found[0]["env"]}


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_lint_is_content(values: tuple[str, ...]) -> None:
    settings = [word for value in values for word in ("--set", value)]
    helm("lint", "--strict", str(CHART), *settings)


def test_a_packaged_chart_renders_the_same(tmp_path: Path) -> None:
    helm("package", str(CHART), "--destination", str(tmp_path))
    (package,) = tmp_path.glob("*.tgz")
    values = (*EXTERNAL, *OWN_SECRETS)
    assert render(*values, chart=package) == render(*values)


class TestCustomResourceDefinition:
    SOURCE = yaml.safe_load((REPOSITORY / "crds/study.yaml").read_text())

    def test_is_that_of_the_one_source(self) -> None:
        crd = one(render(), "CustomResourceDefinition")
        assert crd["spec"] == self.SOURCE["spec"]
        assert crd["metadata"]["name"] == self.SOURCE["metadata"]["name"]
        assert not (CHART / "crds").exists(), "Helm never upgrades what is in crds/"

    def test_outlives_the_release_unless_told_otherwise(self) -> None:
        crd = one(render(), "CustomResourceDefinition")
        assert crd["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
        crd = one(render("crds.keep=false"), "CustomResourceDefinition")
        assert "annotations" not in crd["metadata"]

    def test_can_be_left_out(self) -> None:
        assert "CustomResourceDefinition" not in kinds(render("crds.install=false"))


RULES = [
    (["study-operator.io"], ["studies"], ["get", "list", "watch", "patch"]),
    (["study-operator.io"], ["studies/status"], ["patch"]),
    (["batch"], ["jobs"], ["get", "list", "watch", "create", "patch", "delete"]),
    ([""], ["pods"], ["list", "delete"]),
    ([""], ["pods/log"], ["get"]),
    ([""], ["secrets"], ["create", "patch"]),
    ([""], ["services"], ["get", "create"]),
    ([""], ["persistentvolumeclaims"], ["list", "create", "delete"]),
    ([""], ["limitranges"], ["list"]),
    ([""], ["events"], ["list", "create", "patch"]),
]
CLUSTER_ID = {
    "apiGroups": [""],
    "resources": ["namespaces"],
    "resourceNames": ["kube-system"],
    "verbs": ["get"],
}
EVENTS = {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]}
REPLICAS = {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list"]}
ACCOUNT = {"kind": "ServiceAccount", "name": "study-operator", "namespace": "system"}


class TestRights:
    """What the operator's ServiceAccount may do: docs/security.md explains each line of it."""

    def bound(self, objects: list[dict]) -> Iterator[tuple[str, str | None, list[dict]]]:
        """Kind, namespace and rules of all roles bound to the operator's account."""
        for binding in objects:
            if binding["kind"] not in ("RoleBinding", "ClusterRoleBinding"):
                continue
            if binding["subjects"] != [ACCOUNT]:
                continue
            namespace = binding["metadata"].get("namespace")
            role = one(objects, binding["roleRef"]["kind"], binding["roleRef"]["name"], namespace)
            yield role["kind"], namespace, role["rules"]

    def plain(self, rules: list[dict]) -> list[tuple]:
        return [(rule["apiGroups"], rule["resources"], rule["verbs"]) for rule in rules]

    def test_in_the_whole_cluster(self) -> None:
        objects = render()
        everywhere, cluster_id, replicas = self.bound(objects)
        assert everywhere[:2] == ("ClusterRole", None)
        assert self.plain(everywhere[2]) == RULES
        assert cluster_id == ("ClusterRole", None, [CLUSTER_ID])
        assert replicas == ("Role", "system", [REPLICAS, EVENTS])
        service = one(objects, "Service", "study-operator")["metadata"]
        assert environment(objects)["OPERATOR_SERVICE"]["value"] == f"{service['namespace']}/{service['name']}"

    def test_in_named_namespaces_only(self) -> None:
        objects = render(*NAMESPACED)
        cluster_id, replicas, *roles = sorted(self.bound(objects), key=lambda role: (role[0], role[1] != "system"))
        assert [(kind, namespace) for kind, namespace, _ in roles] == [("Role", "team-a"), ("Role", "team-b")]
        assert all(self.plain(rules) == RULES for _, _, rules in roles)
        assert cluster_id == ("ClusterRole", None, [CLUSTER_ID])
        assert replicas == ("Role", "system", [REPLICAS, EVENTS])
        assert environment(objects)["WATCH_NAMESPACES"]["value"] == "team-a,team-b"

    def test_in_namespaces_with_labels(self) -> None:
        objects = render(*SELECTED)
        everywhere = next(self.bound(objects))
        assert everywhere[:2] == ("ClusterRole", None)
        assert self.plain(everywhere[2]) == [*RULES, ([""], ["namespaces"], ["get", "list", "watch"])]
        found = environment(objects)
        assert found["WATCH_NAMESPACE_SELECTOR"]["value"] == "studies=yes,team in (a,b),tier notin (x),gpus,!frozen"
        assert "WATCH_NAMESPACES" not in found
        for without in (render(), render("watchNamespaceSelector=null")):
            assert "WATCH_NAMESPACE_SELECTOR" not in environment(without)

    def test_can_be_left_to_an_administrator(self) -> None:
        assert list(self.bound(render("rbac.create=false"))) == []

    def test_of_users_follow_from_view_and_edit(self) -> None:
        objects = render()
        prefix = "rbac.authorization.k8s.io/aggregate-to-"
        roles = {
            o["metadata"]["name"]: {k.removeprefix(prefix) for k in o["metadata"]["labels"] if k.startswith(prefix)}
            for o in objects
            if o["kind"] == "ClusterRole"
        }
        assert {name: to for name, to in roles.items() if to} == {
            "study-operator-view": {"view", "edit", "admin"},
            "study-operator-edit": {"edit", "admin"},
        }
        edit = one(objects, "ClusterRole", "study-operator-edit")["rules"]
        assert not any("studies/status" in rule["resources"] for rule in edit), "status is the operator's"
        assert not any("aggregate" in str(role["metadata"]) for role in render("rbac.aggregateRoles=false"))


class TestPods:
    @pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
    def test_all_are_restricted(self, values: tuple[str, ...]) -> None:
        """Of Pod Security; tests/component lets a real API server judge as well."""
        specs = pod_specs(render(*values))
        assert "Pod/study-operator-test" in specs
        assert "Study/study-operator-test" in specs
        for name, spec in specs.items():
            assert spec["securityContext"]["runAsNonRoot"] is True, name
            assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
            for container in spec["containers"] + spec.get("initContainers", []):
                assert container["securityContext"] == {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                }, name
                assert container["resources"]["requests"], name
                assert container["resources"]["limits"]["memory"], name

    @pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
    def test_only_those_that_need_it_get_a_token(self, values: tuple[str, ...]) -> None:
        tokens = {name: spec["automountServiceAccountToken"] for name, spec in pod_specs(render(*values)).items()}
        assert {name for name, mounted in tokens.items() if mounted} == {"Pod/study-operator-test"}

    @pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
    def test_samplers_run_where_no_token_and_no_secret_is(self, values: tuple[str, ...]) -> None:
        pod = pod_specs(render(*values))["Deployment/study-operator"]
        operator, optimizer = sorted(pod["containers"], key=lambda container: container["name"] != "operator")
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounted = [
            {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
            for container in (operator, optimizer)
        ]
        token = mounted[0]["/var/run/secrets/kubernetes.io/serviceaccount"]["projected"]["sources"]
        assert [list(source) for source in token] == [["serviceAccountToken"], ["configMap"], ["downwardAPI"]]
        assert all("emptyDir" in volume for volume in mounted[1].values())
        shared = {volume["name"] for volume in mounted[0].values()} & {volume["name"] for volume in mounted[1].values()}
        assert shared == {"optimizer"}, "the socket's directory"
        assert all("valueFrom" not in variable for variable in optimizer["env"])
        assert not {"DATABASE_URL", "OPERATOR_SERVICE"} & {variable["name"] for variable in optimizer["env"]}
        sockets = {
            next(variable["value"] for variable in container["env"] if variable["name"] == "OPTIMIZER_SOCKET")
            for container in (operator, optimizer)
        }
        assert sockets == {"/run/study-operator/optimizer.sock"}

    def test_images_can_be_pinned(self) -> None:
        digest = f"sha256:{'a' * 64}"
        specs = pod_specs(render(f"operator.image.digest={digest}", "operator.image.tag=v1", "trialImage.tag=v2"))
        operator = specs["Deployment/study-operator"]
        assert operator["containers"][0]["image"] == f"study-operator@{digest}"
        assert operator["initContainers"][0]["image"] == f"study-operator@{digest}"
        assert specs["Study/study-operator-test"]["containers"][0]["image"] == "study-trial:v2"

    def test_the_operators_image_can_be_a_variant(self) -> None:
        for values, image in (
            (("operator.image.tag=v1",), "study-operator:v1-gp"),
            ((), f"study-operator:{APP_VERSION}-gp"),
            ((f"operator.image.digest=sha256:{'a' * 64}",), f"study-operator@sha256:{'a' * 64}"),
        ):
            pod = pod_specs(render("operator.image.variant=gp", *values))["Deployment/study-operator"]
            assert {c["image"] for c in pod["containers"] + pod["initContainers"]} == {image}

    def test_limits_are_those_of_the_settings_unless_given(self) -> None:
        env = environment(render("limits.bytesPerStudy=123456789012"))
        default = Limits()
        assert {
            name: env[name]["value"] for name in ("STUDIES_PER_NAMESPACE", "TRIALS_PER_STUDY", "REPORTS_PER_TRIAL")
        } == {
            "STUDIES_PER_NAMESPACE": str(default.studies_per_namespace),
            "TRIALS_PER_STUDY": str(default.trials_per_study),
            "REPORTS_PER_TRIAL": str(default.reports_per_trial),
        }
        assert env["BYTES_PER_STUDY"]["value"] == "123456789012"
        assert env["BYTES_PER_NAMESPACE"]["value"] == str(default.bytes_per_namespace)
        assert environment(render())["BYTES_PER_STUDY"]["value"] == str(default.bytes_per_study)

    def test_the_operator_gets_the_names_of_gpus(self) -> None:
        assert environment(render())["GPU_NAMES"]["value"] == ",".join(gpus.NAMES)
        assert environment(render("gpuNames={gpu,ascend}"))["GPU_NAMES"]["value"] == "gpu,ascend"

    def test_the_operator_gets_the_list_of_sampler_classes(self) -> None:
        env = environment(render("samplerClasses={pkg.module:Class,other:Sampler}"))
        assert env["SAMPLER_CLASSES"]["value"] == "pkg.module:Class,other:Sampler"
        assert "SAMPLER_CLASSES" not in environment(render())

    @pytest.mark.parametrize(
        ("values", "image"),
        [
            ((), f"study-trial:{APP_VERSION}"),
            (
                ("trialImage.repository=registry.example.com/ml/trial", "trialImage.tag=v2"),
                "registry.example.com/ml/trial:v2",
            ),
            ((f"trialImage.digest=sha256:{'b' * 64}",), f"study-trial@sha256:{'b' * 64}"),
        ],
    )
    def test_the_operator_knows_the_image_of_its_sidecar(self, values: tuple[str, ...], image: str) -> None:
        assert environment(render(*values))["TRIAL_IMAGE"]["value"] == image

    def test_pull_secrets_reach_every_pod(self) -> None:
        for name, spec in pod_specs(render("imagePullSecrets[0].name=registry")).items():
            assert spec["imagePullSecrets"] == [{"name": "registry"}], name

    def test_are_not_restarted_or_refused_for_a_new_version_of_the_chart(self) -> None:
        """Labels with a version would restart the database's pod; in a volume's claim they may not change."""
        objects = render()
        database = one(objects, "StatefulSet")["spec"]
        places = [
            database["template"]["metadata"]["labels"],
            database["volumeClaimTemplates"][0]["metadata"]["labels"],
            database["selector"]["matchLabels"],
            one(objects, "Deployment")["spec"]["selector"]["matchLabels"],
        ]
        for labels in places:
            assert set(labels) == {f"app.kubernetes.io/{part}" for part in ("name", "instance", "component")}

    def test_the_next_operator_is_there_before_one_goes(self) -> None:
        objects = render()
        spec = one(objects, "Deployment")["spec"]
        assert spec["replicas"] == 1
        assert spec["strategy"] == {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
        }
        assert "affinity" not in spec["template"]["spec"]
        assert "PodDisruptionBudget" not in kinds(objects), "a node with the only replica could not be drained"

    def test_several_replicas_keep_apart_and_are_not_evicted_together(self) -> None:
        objects = render("replicas=3")
        spec = one(objects, "Deployment")["spec"]
        assert spec["replicas"] == 3
        labels = spec["template"]["metadata"]["labels"]
        affinity = spec["template"]["spec"]["affinity"]["podAntiAffinity"]
        (term,) = affinity["preferredDuringSchedulingIgnoredDuringExecution"]
        assert term["podAffinityTerm"]["labelSelector"]["matchLabels"] == labels
        budget = one(objects, "PodDisruptionBudget")["spec"]
        assert budget == {"maxUnavailable": 1, "selector": {"matchLabels": labels}}
        own = render("replicas=3", "operator.affinity.nodeAffinity.x=y")
        assert one(own, "Deployment")["spec"]["template"]["spec"]["affinity"] == {"nodeAffinity": {"x": "y"}}

    def test_names_stay_short_enough(self) -> None:
        objects = render(release="r" * 53)
        assert all(len(o["metadata"]["name"]) <= 63 for o in objects)
        # Kubernetes adds a hash of 11 characters to a StatefulSet's name and makes a label of it.
        assert len(one(objects, "StatefulSet")["metadata"]["name"]) <= 52


class TestDatabase:
    def test_embedded_by_default(self) -> None:
        objects = render()
        env = environment(objects)
        url = "postgresql://study_operator@study-operator-database.system.svc:5433/studies?sslmode=verify-full"
        assert env["DATABASE_URL"]["value"] == url
        container, pooler = one(objects, "StatefulSet")["spec"]["template"]["spec"]["containers"]
        assert "-cmax_connections=500" in container["args"]
        assert "-cauthentication_timeout=5s" in container["args"]
        operator = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
        assert pooler["image"] == operator["image"], "it has PgBouncer"
        assert [env[f"REPORTER_{name}"]["value"] for name in ("LOGINS", "PORT")] == ["namespace", "5432"]
        password = {"secretKeyRef": {"name": "study-operator-generated", "key": "database-password"}}
        assert env["DATABASE_PASSWORD"]["valueFrom"] == password
        assert password in [e.get("valueFrom") for e in container["env"]]
        ports = one(objects, "Service", "study-operator-database")["spec"]["ports"]
        assert [(p["port"], p["targetPort"]) for p in ports] == [(5432, "pgbouncer"), (5433, "postgresql")]
        data = container["volumeMounts"][0]["mountPath"]
        (pgdata,) = [e["value"] for e in container["env"] if e["name"] == "PGDATA"]
        assert pgdata.startswith(data + "/")

    def test_embedded_runs_as_whom_the_cluster_likes(self) -> None:
        pod = one(render("database.embedded.uid=null"), "StatefulSet")["spec"]["template"]["spec"]
        assert set(pod["securityContext"]) == {"runAsNonRoot", "seccompProfile"}

    def test_external(self) -> None:
        objects = render(*EXTERNAL, "database.external.user=the operator", "database.external.name=a/b")
        assert "StatefulSet" not in kinds(objects)
        for container in ("operator", "migrate"):
            env = environment(objects, container)
            assert env["DATABASE_URL"]["value"] == (
                "postgresql://the%20operator@db.example.com:5432/a%2Fb?sslmode=verify-full"
            )
            password = env["DATABASE_PASSWORD"]["valueFrom"]["secretKeyRef"]
            assert password == {"name": "database-login", "key": "password"}
            assert env["MANAGE_REPORTER"]["value"] == "true"
            assert env["DATABASE_CA_FILE"]["value"] == env["REPORTER_CA_FILE"]["value"]
        keys = one(objects, "Secret", "study-operator-generated")["data"]
        assert set(keys) == {"study-key-seed", "reporter-password", "database-password"}

    @pytest.mark.parametrize(("source", "volume"), [("secretName", "secret"), ("configMapName", "configMap")])
    def test_external_ca(self, source: str, volume: str) -> None:
        values = [v for v in EXTERNAL if "ca." not in v]
        ca = "database.external.ca."
        objects = render(*values, f"{ca}{source}=trust", f"{ca}key=root.pem")
        pod = one(objects, "Deployment")["spec"]["template"]["spec"]
        (found,) = [v for v in pod["volumes"] if v["name"] == "database-ca"]
        assert found[volume]["items"] == [{"key": "root.pem", "path": "ca.crt"}]
        for container in pod["containers"][:1] + pod["initContainers"]:
            (mount,) = [m for m in container["volumeMounts"] if m["name"] == "database-ca"]
            env = {e["name"]: e.get("value") for e in container["env"]}
            assert env["DATABASE_CA_FILE"] == mount["mountPath"] + "/ca.crt"

    def test_external_with_a_reporter_prepared_by_an_administrator(self) -> None:
        reporter = "database.external.reporter."
        values = (
            f"{reporter}user=pods",
            f"{reporter}host=pooler",
            f"{reporter}port=6432",
            f"{reporter}sslmode=require",
        )
        objects = render(*EXTERNAL, "database.external.manageReporter=false", *values)
        env = environment(objects)
        assert env["MANAGE_REPORTER"]["value"] == "false"
        assert env["REPORTER_PASSWORD"]["valueFrom"]["secretKeyRef"] == {
            "name": "database-login",
            "key": "reporter-password",
        }
        assert [env[f"REPORTER_{name}"]["value"] for name in ("USER", "HOST", "PORT", "SSLMODE")] == [
            "pods",
            "pooler",
            "6432",
            "require",
        ]
        assert "study-key-seed" in one(objects, "Secret", "study-operator-generated")["data"]


class TestTLS:
    def test_pods_check_the_embedded_database(self) -> None:
        objects = render()
        data = one(objects, "Secret", "study-operator-database-tls")
        assert set(data["data"]) == {"ca.crt", "tls.crt", "tls.key"}
        assert data["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
        env = environment(objects)
        assert env["REPORTER_CA_FILE"]["value"] == env["DATABASE_CA_FILE"]["value"]
        (volume,) = [
            v for v in one(objects, "Deployment")["spec"]["template"]["spec"]["volumes"] if v["name"] == "database-ca"
        ]
        assert volume["secret"]["secretName"] == data["metadata"]["name"]
        assert [item["key"] for item in volume["secret"]["items"]] == ["ca.crt"], "the key stays with the database"

    def test_without_a_secret_of_its_own_there_is_none_where_rendering_must_be_repeatable(self) -> None:
        objects = render(*OWN_SECRETS)
        assert "sslmode=disable" in environment(objects)["DATABASE_URL"]["value"]
        assert "REPORTER_CA_FILE" not in environment(objects)
        objects = render(*OWN_SECRETS, "database.embedded.tlsSecret=mine")
        assert "sslmode=verify-full" in environment(objects)["DATABASE_URL"]["value"]
        assert "study-operator-database-tls" not in [o["metadata"]["name"] for o in objects]


class TestSecrets:
    @pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
    def test_reach_the_operator_by_reference_only(self, values: tuple[str, ...]) -> None:
        for container in ("operator", "migrate"):
            for name, entry in environment(render(*values), container).items():
                secret = name.endswith("PASSWORD") or name.endswith("SEED")
                assert ("secretKeyRef" in entry.get("valueFrom", {})) == secret, name

    def test_generated_ones_are_long_and_all_different(self) -> None:
        data = one(render(), "Secret", "study-operator-generated")["data"]
        assert set(data) == {"study-key-seed", "reporter-password", "database-password"}
        clear = {base64.b64decode(value) for value in data.values()}
        assert len(clear) == 3
        assert all(len(value) == 48 for value in clear)

    def test_generated_ones_are_in_no_manifest(self) -> None:
        """A hook is not part of it: no rollback brings former values back, and no uninstall deletes them."""
        annotations = one(render(), "Secret", "study-operator-generated")["metadata"]["annotations"]
        assert annotations["helm.sh/hook"] == "pre-install,pre-upgrade"
        assert annotations["helm.sh/hook-delete-policy"] == "hook-failed", "the default would delete what there is"

    @pytest.mark.parametrize("values", [(), EXTERNAL], ids=["embedded", "external"])
    def test_own_ones_make_rendering_repeatable(self, values: tuple[str, ...]) -> None:
        first = render(*values, *OWN_SECRETS)
        assert first == render(*values, *OWN_SECRETS)
        assert "Secret" not in kinds(first)
        seed = environment(first)["STUDY_KEY_SEED"]["valueFrom"]["secretKeyRef"]
        assert seed == {"name": "operator-keys", "key": "study-key-seed"}


class TestNetworkPolicy:
    def test_of_the_embedded_database(self) -> None:
        policy = one(render(), "NetworkPolicy", "study-operator-database")["spec"]
        for_operator, for_trials = policy["ingress"]
        assert [[p["port"] for p in rule["ports"]] for rule in policy["ingress"]] == [["postgresql"], ["pgbouncer"]]
        (operator,), (trials,) = for_operator["from"], for_trials["from"]
        assert operator["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "operator"
        assert "namespaceSelector" not in operator
        assert trials["podSelector"]["matchExpressions"] == [{"key": "study-operator.io/study", "operator": "Exists"}]
        assert trials["namespaceSelector"] == {}
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        assert policy["egress"] == []

    def test_admits_trials_of_served_namespaces_only(self) -> None:
        policy = one(render(*NAMESPACED), "NetworkPolicy", "study-operator-database")["spec"]
        (expression,) = policy["ingress"][1]["from"][0]["namespaceSelector"]["matchExpressions"]
        assert expression == {
            "key": "kubernetes.io/metadata.name",
            "operator": "In",
            "values": ["team-a", "team-b"],
        }

    def test_admits_trials_of_namespaces_with_the_labels_only(self) -> None:
        policy = one(render(*SELECTED), "NetworkPolicy", "study-operator-database")["spec"]
        trials, here = policy["ingress"][1]["from"]
        assert trials["namespaceSelector"]["matchLabels"] == {"studies": "yes"}
        assert [e["operator"] for e in trials["namespaceSelector"]["matchExpressions"]] == [
            "In",
            "NotIn",
            "Exists",
            "DoesNotExist",
        ]
        assert here == {"podSelector": trials["podSelector"]}, "the trials of helm test"

    @pytest.mark.parametrize(
        ("values", "others"),
        [
            ((), [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]),
            (("networkPolicy.metricsFrom=null",), []),
            (
                ("networkPolicy.metricsFrom[0].podSelector.matchLabels.app=x",),
                [{"podSelector": {"matchLabels": {"app": "x"}}}],
            ),
        ],
    )
    def test_shows_metrics_to_its_own_namespace_and_to_whom_it_is_told(self, values, others) -> None:
        (rule,) = one(render(*values), "NetworkPolicy", "study-operator")["spec"]["ingress"]
        assert rule["ports"] == [{"protocol": "TCP", "port": "http"}]
        assert rule["from"] == [{"podSelector": {}}, *others]

    def test_of_the_operator(self) -> None:
        def ports(policy: dict) -> list[list]:
            return [[p["port"] for p in rule["ports"]] for rule in policy["spec"]["egress"]]

        assert ports(one(render(), "NetworkPolicy", "study-operator")) == [
            [53, 53, 5353, 5353],
            [443, 6443],
            ["postgresql"],
        ]
        external = one(
            render(*EXTERNAL, "database.external.port=6000", "networkPolicy.apiServerCIDRs={10.0.0.1/32}"),
            "NetworkPolicy",
        )
        assert ports(external)[-1] == [6000]
        behind = render(*EXTERNAL, "database.external.port=6000", "networkPolicy.databasePorts={5432}")
        assert ports(one(behind, "NetworkPolicy"))[-1] == [6000, 5432]
        assert external["spec"]["egress"][1]["to"] == [{"ipBlock": {"cidr": "10.0.0.1/32"}}]

    def test_can_be_left_out(self) -> None:
        assert "NetworkPolicy" not in kinds(render("networkPolicy.enabled=false"))


def test_service_monitor_is_off_unless_asked_for() -> None:
    assert "ServiceMonitor" not in kinds(render())
    objects = render(*SERVICE_MONITOR)
    monitor = one(objects, "ServiceMonitor")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    service = one(objects, "Service", "study-operator")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]


class TestHelmTest:
    def study(self, *values: str) -> dict:
        return json.loads(one(render(*values), "ConfigMap", "study-operator-test")["data"]["study.json"])

    def test_runs_a_small_study_without_gpus(self) -> None:
        study = self.study()
        assert study["metadata"] == {"name": "study-operator-test", "namespace": "system"}
        spec = study["spec"]
        assert (spec["maxTrials"], spec["parallelism"], spec["gpusPerTrial"]) == (4, 2, 0)
        assert spec["deletionPolicy"] == "Delete"

    def test_is_the_study_that_the_operator_allows_in_its_own_namespace(self) -> None:
        objects = render("fullnameOverride=tuner")
        settings = Settings.from_environment(
            {
                "DATABASE_URL": "postgresql://operator@db/studies",
                "REPORTER_PASSWORD": "x",
                "STUDY_KEY_SEED": "x" * 32,
                "OPERATOR_SERVICE": environment(objects)["OPERATOR_SERVICE"]["value"],
            }
        )
        study = json.loads(one(objects, "ConfigMap", "tuner-test")["data"]["study.json"])["metadata"]
        assert reserved(settings).test == (study["namespace"], study["name"])

    @pytest.mark.parametrize(("watched", "namespace"), [("{team-a,system}", "system"), ("{team-a}", "team-a")])
    def test_runs_where_the_operator_serves(self, watched: str, namespace: str) -> None:
        values = (f"watchNamespaces={watched}",)
        assert self.study(*values)["metadata"]["namespace"] == namespace
        assert one(render(*values), "Role", "study-operator-test")["metadata"]["namespace"] == namespace

    def test_may_touch_its_own_study_only(self) -> None:
        rules = one(render(), "Role", "study-operator-test")["rules"]
        assert [(rule.get("resourceNames"), rule["verbs"]) for rule in rules] == [
            (None, ["create"]),
            (["study-operator-test"], ["get", "delete"]),
        ]

    def test_cleans_up_behind_itself(self) -> None:
        hooks = [o for o in render() if o["metadata"].get("annotations", {}).get("helm.sh/hook") == "test"]
        assert {o["kind"] for o in hooks} == {"ServiceAccount", "Role", "RoleBinding", "ConfigMap", "Pod"}
        for hook in hooks:
            annotations = hook["metadata"]["annotations"]
            assert annotations["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded"


class TestRefusals:
    @pytest.mark.parametrize(
        ("values", "sentence"),
        [
            (("database.mode=external",), "database.external.host is empty"),
            (EXTERNAL[:2], "database.external.existingSecret is empty"),
            (EXTERNAL[:3], "database.external.sslmode is verify-full, which needs a certificate authority"),
            ((*EXTERNAL, "database.external.ca.configMapName=x"), "both secretName and configMapName"),
            ((*EXTERNAL, "database.external.sslmode=prefer"), "sslmode prefer does not check certificates"),
            (
                (*EXTERNAL, "database.external.user=study_reporter"),
                "trial pods would get the operator's own login",
            ),
            (
                (
                    *EXTERNAL[:3],
                    "database.external.sslmode=require",
                    "database.external.reporter.sslmode=verify-ca",
                ),
                "database.external.reporter.sslmode is verify-ca, which needs a certificate authority",
            ),
            (EXTERNAL[1:2], "set database.mode=external to use your own database"),
            ((*NAMESPACED, *SELECTED), "watchNamespaces and watchNamespaceSelector are both set"),
            (SELECTED[:3], "the key team has the operator In, which needs values"),
            ((*SELECTED, "watchNamespaceSelector.matchExpressions[2].values={x}"), "Exists, which takes no values"),
            (("optimizer.processes=6",), "optimizer.processes x optimizer.memoryMiB + 256 MiB is 1792Mi: raise"),
            (("optimizer.resources.limits.memory=1279Mi",), "is 1279Mi, but"),
            (("optimizer.resources.limits.memory=1.2Gi",), "is 1.2Gi, but"),
        ],
    )
    def test_of_values_that_contradict_each_other(self, values: tuple[str, ...], sentence: str) -> None:
        assert sentence in render_error(*values)

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            ("operator.replicas=2", "additional properties 'replicas' not allowed"),
            ("watchNamespace=team-a", "additional properties 'watchNamespace' not allowed"),
            ("database.mode=sqlite", "value must be one of 'embedded', 'external'"),
            ("database.external.sslmode=on", "value must be one of 'disable'"),
            ("operator.image.digest=latest", "does not match pattern"),
            ("operator.workers=0", "minimum: got 0, want 1"),
            ("replicas=-1", "minimum: got -1, want 0"),
            ("watchNamespaces={a,a}", "items at 0 and 1 are equal"),
            ("watchNamespaceSelector.matchlabels.a=b", "additional properties 'matchlabels' not allowed"),
            ("watchNamespaceSelector.matchLabels.a=b c", "does not match pattern"),
            ("allowedNamespaces={KUBE}", "does not match pattern"),
            ("samplerClasses={TPE}", "does not match pattern"),
            ("samplerClasses={a.b:C;import os}", "does not match pattern"),
            ("operator.image.variant=cuda", "value must be one of '', 'gp'"),
            ("optimizer.processes=1", "minimum: got 1, want 2"),
        ],
    )
    def test_of_single_values(self, value: str, words: str) -> None:
        assert words in render_error(value)

    @pytest.mark.parametrize("limit", ["1280Mi", "2Gi", "1.5G", "1342177280", "1.4e9"])
    def test_not_of_a_memory_limit_that_is_enough(self, limit: str) -> None:
        pod = pod_specs(render(f"optimizer.resources.limits.memory={limit}"))["Deployment/study-operator"]
        assert [container["name"] for container in pod["containers"]] == ["operator", "optimizer"]

    def test_in_a_cluster_that_is_too_old(self) -> None:
        with pytest.raises(HelmError, match=r"requires kubeVersion: >=1\.29\.0-0"):
            helm("template", "study-operator", str(CHART), "--kube-version", "1.28.0")


class TestSchema:
    SCHEMA = json.loads((CHART / "values.schema.json").read_text())
    VALUES = yaml.safe_load((CHART / "values.yaml").read_text())

    def test_knows_exactly_the_values_there_are(self) -> None:
        def compare(schema: dict, values: object, path: str) -> None:
            if not isinstance(values, dict) or "properties" not in schema:
                return
            assert schema["additionalProperties"] is False, path
            assert set(schema["properties"]) - {"global"} == set(values), path
            for name, value in values.items():
                compare(schema["properties"][name], value, f"{path}.{name}")

        compare(self.SCHEMA, self.VALUES, "values")

    def test_lets_helm_pass_global_values_from_a_parent_chart(self) -> None:
        render("global.region=x")


def test_readme_forwards_a_notebook_to_postgresql_and_not_to_pgbouncer():
    service = one(render(), "Service", "study-operator-database")
    ports = {port["name"]: port["port"] for port in service["spec"]["ports"]}
    readme = (REPOSITORY / "README.md").read_text()
    (command,) = re.findall(r"port-forward service/study-operator-database (\S+)", readme)
    local, port = command.split(":")
    assert int(port) == ports["postgresql"], "PgBouncer refuses the operator's login"
    assert f"@localhost:{local}/" in readme
