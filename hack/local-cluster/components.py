"""The cluster's daemons: the command line and configuration of each. Configuration is written as JSON, which is
YAML too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import network
import probes
from common import Problem, write
from pki import Authority
from processes import Component

NODE = "local"
SERVER = f"https://{network.NODE_ADDRESS}:6443"
_ETCD, _ETCD_PEER, _ETCD_HEALTH = "http://127.0.0.1:2379", "http://127.0.0.1:2380", "http://127.0.0.1:2381"


class Components:
    """All daemons of the cluster that lives in `directory`. Making one writes certificates and configuration."""

    def __init__(self, directory: Path, programs: Mapping[str, Path], pause_image: str, helper_image: str) -> None:
        self._directory = directory
        self._config = directory / "config"
        self._programs = programs
        self._authority = Authority(directory / "pki")
        admin = self._authority.issue("admin", "admin", "system:masters")
        self.kubeconfig = self._authority.kubeconfig(directory / "kubeconfig", SERVER, admin)
        self.etcd = self._etcd()
        self.containerd = self._containerd(pause_image)
        self.apiserver = self._apiserver()
        self.controller_manager = self._controller_manager()
        self.scheduler = self._scheduler()
        self.kubelet = self._kubelet()
        self.proxy = self._proxy()
        self.coredns = self._coredns()
        self.provisioner = self._provisioner(helper_image)

    def all(self) -> list[Component]:
        """Every component, in the order in which they start."""
        last = (self.controller_manager, self.scheduler, self.kubelet, self.proxy, self.coredns, self.provisioner)
        return [self.etcd, self.containerd, self.apiserver, *last]

    def _client(self, name: str, user: str, group: str = "") -> Path:
        """A kubeconfig with an identity of its own, so that the audit log tells who did what."""
        certificate = self._authority.issue(name, user, group)
        return self._authority.kubeconfig(self._config / f"{name}.kubeconfig", SERVER, certificate)

    def _json(self, name: str, content: dict[str, Any]) -> Path:
        path = self._config / name
        write(path, json.dumps(content, indent=1) + "\n")
        return path

    def _etcd(self) -> Component:
        data = self._directory / "etcd"
        data.mkdir(mode=0o700, exist_ok=True)
        argv = [
            self._programs["etcd"],
            f"--data-dir={data}",
            f"--name={NODE}",
            f"--listen-client-urls={_ETCD}",
            f"--advertise-client-urls={_ETCD}",
            f"--listen-peer-urls={_ETCD_PEER}",
            f"--initial-advertise-peer-urls={_ETCD_PEER}",
            f"--initial-cluster={NODE}={_ETCD_PEER}",
            f"--listen-metrics-urls={_ETCD_HEALTH}",
            "--log-level=warn",
        ]
        return Component("etcd", argv, probes.http(f"{_ETCD_HEALTH}/health"))

    def _containerd(self, pause_image: str) -> Component:
        home = self._directory / "containerd"
        socket = home / "containerd.sock"
        if len(str(socket)) > 90:  # of 107; kubelet's are a little longer
            raise Problem(f"{socket} is too long a path for a socket: set STUDY_OPERATOR_CACHE to a shorter one")
        cni = network.write_cni(self._directory / "cni")
        # Where the tool may not raise its own OOM priority (no CAP_SYS_RESOURCE) every sandbox would fail without
        # restrict_oom_score_adj, with "can't get final child's PID from pipe: EOF".
        config = self._config / "containerd.toml"
        write(
            config,
            f"""version = 2
root = "{home}/root"
state = "{home}/state"
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause_image}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{network.CNI_BIN}"
    conf_dir = "{cni}"
""",
        )
        return Component("containerd", ["containerd", "--config", config], probes.unix(socket), config=(config,))

    def _apiserver(self) -> Component:
        names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost")
        addresses = (network.NODE_ADDRESS, network.SERVICE_ADDRESS, "127.0.0.1")
        sans = tuple(f"DNS:{name}" for name in names) + tuple(f"IP:{address}" for address in addresses)
        serving = self._authority.issue("apiserver", "kube-apiserver", sans=sans)
        to_kubelet = self._authority.issue("apiserver-kubelet", "kube-apiserver-kubelet-client", "system:masters")
        private, public = self._authority.signing_key("service-accounts")
        aggregation, trusted = Authority(self._directory / "front-proxy").aggregation()
        # Writes only: how many API writes each client makes is something to measure.
        rules = [
            {"level": "Metadata", "omitStages": ["RequestReceived"], "verbs": ["create", "update", "patch", "delete"]}
        ]
        policy = self._json(
            "audit-policy.json",
            {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [*rules, {"level": "None"}]},
        )
        argv = [
            self._programs["kube-apiserver"],
            f"--etcd-servers={_ETCD}",
            f"--bind-address={network.NODE_ADDRESS}",
            f"--advertise-address={network.NODE_ADDRESS}",
            f"--tls-cert-file={serving.crt}",
            f"--tls-private-key-file={serving.key}",
            f"--client-ca-file={self._authority.crt}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            f"--service-cluster-ip-range={network.SERVICE_NETWORK}",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={public}",
            f"--service-account-signing-key-file={private}",
            # Else `kubectl logs` would look the node's name up in DNS.
            "--kubelet-preferred-address-types=InternalIP",
            f"--kubelet-certificate-authority={self._authority.crt}",
            f"--kubelet-client-certificate={to_kubelet.crt}",
            f"--kubelet-client-key={to_kubelet.key}",
            "--allow-privileged=true",
            *aggregation,
            f"--audit-policy-file={policy}",
            f"--audit-log-path={self._directory / 'logs' / 'audit.log'}",
            "--audit-log-mode=batch",
            "--audit-log-maxsize=100",
            "--audit-log-maxbackup=2",
        ]
        health = probes.http(f"{SERVER}/readyz", self._authority.crt)
        return Component("kube-apiserver", argv, health, config=(serving.crt, to_kubelet.crt, public, policy, *trusted))

    def _controller_manager(self) -> Component:
        client = self._client("kube-controller-manager", "system:kube-controller-manager")
        private, _ = self._authority.signing_key("service-accounts")
        argv = [
            self._programs["kube-controller-manager"],
            f"--kubeconfig={client}",
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={private}",
            f"--root-ca-file={self._authority.crt}",
            # With the default of 20 requests a second it starts about 8 pods/s and completes about 6 Jobs/s, and
            # every operator would be measured as fast as that.
            "--kube-api-qps=1000",
            "--kube-api-burst=2000",
            "--concurrent-job-syncs=32",
        ]
        return Component(
            "kube-controller-manager", argv, probes.http("https://127.0.0.1:10257/healthz"), config=(client,)
        )

    def _scheduler(self) -> Component:
        client = self._client("kube-scheduler", "system:kube-scheduler")
        config = self._json(
            "kube-scheduler.json",
            {
                "apiVersion": "kubescheduler.config.k8s.io/v1",
                "kind": "KubeSchedulerConfiguration",
                "clientConnection": {"kubeconfig": str(client), "qps": 1000, "burst": 2000},  # as controllers
                "leaderElection": {"leaderElect": False},
            },
        )
        argv = [self._programs["kube-scheduler"], f"--config={config}", "--bind-address=127.0.0.1"]
        return Component(
            "kube-scheduler", argv, probes.http("https://127.0.0.1:10259/healthz"), config=(client, config)
        )

    def _kubelet(self) -> Component:
        client = self._client("kubelet", f"system:node:{NODE}", "system:nodes")
        serving = self._authority.issue("kubelet-serving", NODE, sans=(f"IP:{network.NODE_ADDRESS}", f"DNS:{NODE}"))
        containerd = self._directory / "containerd" / "containerd.sock"
        config = self._json(
            "kubelet.json",
            {
                "apiVersion": "kubelet.config.k8s.io/v1beta1",
                "kind": "KubeletConfiguration",
                "address": network.NODE_ADDRESS,
                "authentication": {
                    "anonymous": {"enabled": False},
                    "webhook": {"enabled": True},
                    "x509": {"clientCAFile": str(self._authority.crt)},
                },
                "authorization": {"mode": "Webhook"},
                "tlsCertFile": str(serving.crt),
                "tlsPrivateKeyFile": str(serving.key),
                "containerRuntimeEndpoint": f"unix://{containerd}",
                "cgroupDriver": "cgroupfs",
                "failCgroupV1": False,
                "failSwapOn": False,
                "clusterDNS": [network.NODE_ADDRESS],
                "clusterDomain": "cluster.local",
                "maxPods": 200,
                "podLogsDir": str(self._directory / "logs" / "pods"),
                "volumePluginDir": str(self._directory / "kubelet" / "volume-plugins"),
                "serializeImagePulls": False,
                "kubeAPIQPS": 200,
                "kubeAPIBurst": 400,
                # A nearly full disk is the user's business; and images here come from no registry, so that one
                # that is collected could not be pulled again.
                "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
                "imageGCHighThresholdPercent": 100,
            },
        )
        argv = [
            self._programs["kubelet"],
            f"--kubeconfig={client}",
            f"--config={config}",
            f"--root-dir={self._directory / 'kubelet'}",
            f"--hostname-override={NODE}",
            f"--node-ip={network.NODE_ADDRESS}",
        ]
        health = probes.http("http://127.0.0.1:10248/healthz")
        return Component("kubelet", argv, health, config=(client, config, serving.crt))

    def _proxy(self) -> Component:
        client = self._client("kube-proxy", "system:kube-proxy")
        argv = [
            self._programs["kube-proxy"],
            f"--kubeconfig={client}",
            f"--hostname-override={NODE}",
            "--proxy-mode=iptables",
            f"--cluster-cidr={network.POD_NETWORK}",
            "--metrics-bind-address=127.0.0.1:10249",
            "--healthz-bind-address=127.0.0.1:10256",
            "--iptables-localhost-nodeports=false",
            # Kernel settings that a virtual machine may not let us change.
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
        ]
        return Component("kube-proxy", argv, probes.http("http://127.0.0.1:10256/healthz"), config=(client,))

    def _coredns(self) -> Component:
        client = self._client("coredns", "system:coredns")
        config = self._config / "Corefile"
        write(
            config,
            f""".:53 {{
    bind {network.NODE_ADDRESS}
    errors
    health 127.0.0.1:10253
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {client}
    }}
    forward . /etc/resolv.conf
    cache 30 {{
        disable success cluster.local
        disable denial cluster.local
    }}
}}
""",
        )
        argv = [self._programs["coredns"], "-conf", config]
        return Component("coredns", argv, probes.http("http://127.0.0.1:10253/health"), config=(client, config))

    def _provisioner(self, helper_image: str) -> Component:
        """Gives volumes to claims: a directory on the node that any user may write to, made by a short pod.

        The controller manager's own host-path provisioner makes directories that only root can write to, and
        fsGroup does not apply to host paths: no use for a database that runs as an ordinary user.
        """
        client = self._client("local-path-provisioner", "local-path-provisioner")
        paths = [{"node": "DEFAULT_PATH_FOR_NON_LISTED_NODES", "paths": [str(self._directory / "volumes")]}]
        config = self._json("local-path.json", {"nodePathMap": paths})
        container = {"name": "helper-pod", "image": helper_image, "imagePullPolicy": "Never"}
        pod = self._json(
            "local-path-helper-pod.json",
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "helper-pod"},
                "spec": {"priorityClassName": "system-node-critical", "containers": [container]},
            },
        )
        argv = [
            self._programs["local-path-provisioner"],
            "start",
            f"--kubeconfig={client}",
            f"--config={config}",
            f"--helper-pod-file={pod}",
            f"--helper-image={helper_image}",
            "--namespace=local-path-storage",
            "--service-account-name=helper",
        ]
        # It has no health endpoint: it ends when it cannot work.
        return Component("local-path-provisioner", argv, lambda: None, config=(client, config, pod))
