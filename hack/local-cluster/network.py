"""The node's network: a bridge for pods, and leaving no trace of it behind."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import shutil
from pathlib import Path

from common import run, say, write

BRIDGE = "study-cni0"
POD_NETWORK = "10.244.0.0/24"
SERVICE_NETWORK = "10.96.0.0/16"
SERVICE_ADDRESS = "10.96.0.1"
# The node's own address is the bridge's: pods reach it, it stays when the machine's other addresses change, and
# what listens on it cannot be reached from outside the machine.
NODE_ADDRESS = str(ipaddress.ip_network(POD_NETWORK)[1])
CNI_BIN = Path("/usr/lib/cni")

# Forwarding between pods and the world; and bridged packets pass iptables, or the answer of a Service's pod to
# another pod on this bridge would skip kube-proxy's address translation. The second comes with a kernel module.
_SYSCTLS = {"net/ipv4/ip_forward": "1", "net/bridge/bridge-nf-call-iptables": "1"}
_CHAINS = ("KUBE-", "CNI-")
_UNSERVED = "KUBE-LOCAL-UNSERVED"
_BEFORE_CNI = "CNI-ADMIN"  # the firewall plugin makes it unless it is there, and leaves its rules alone


def proxies_in_use() -> bool:
    """Whether the environment sends HTTP through a proxy."""
    return any(os.environ.get(name) or os.environ.get(name.lower()) for name in ("HTTP_PROXY", "HTTPS_PROXY"))


def keep_from_proxies() -> None:
    """Tells this command and the daemons it starts not to look for the cluster behind the machine's proxy."""
    if proxies_in_use():
        before = os.environ.get("NO_PROXY") or os.environ.get("no_proxy", "")
        ours = ["127.0.0.1", "localhost", POD_NETWORK, SERVICE_NETWORK, ".svc", ".cluster.local"]
        known = [name for name in before.split(",") if name]
        os.environ["NO_PROXY"] = os.environ["no_proxy"] = ",".join(
            [*known, *(name for name in ours if name not in known)]
        )


def write_cni(directory: Path) -> Path:
    """Writes the network configuration for pods and returns the directory it lies in."""
    bridge = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,  # a pod may reach itself through its own Service
        "ipam": {
            "type": "host-local",
            "dataDir": str(_leases(directory)),
            "ranges": [[{"subnet": POD_NETWORK}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    # `firewall` lets pods' packets pass on machines whose FORWARD policy is to drop, as Docker's is.
    plugins = [bridge, {"type": "firewall"}]
    content = {"cniVersion": "1.0.0", "name": "local-cluster", "plugins": plugins}
    write(directory / "net.d" / "10-local-cluster.conflist", json.dumps(content, indent=1))
    return directory / "net.d"


def up(directory: Path) -> None:
    """Makes the bridge, which daemons bind to before the first pod exists, and remembers changed kernel settings."""
    before = directory / "sysctls-before.json"
    if not Path("/proc/sys/net/bridge").exists():
        run(["modprobe", "br_netfilter"])
    current = {name: Path("/proc/sys", name).read_text().strip() for name in _SYSCTLS}
    if not before.exists():
        write(before, json.dumps(current))
    for name, value in _SYSCTLS.items():
        if current[name] != value:
            Path("/proc/sys", name).write_text(value)
    if not Path("/sys/class/net", BRIDGE).exists():
        run(["ip", "link", "add", BRIDGE, "type", "bridge"])
    # A bridge has the lowest address of its ports until it is given one: when the pod with that one left, the others
    # went on sending to it, and reached neither the node nor any Service for up to half a minute.
    run(["ip", "link", "set", BRIDGE, "address", Path("/sys/class/net", BRIDGE, "address").read_text().strip()])
    prefix = ipaddress.ip_network(POD_NETWORK).prefixlen
    run(["ip", "address", "replace", f"{NODE_ADDRESS}/{prefix}", "dev", BRIDGE])
    run(["ip", "link", "set", BRIDGE, "up"])
    _keep_services_here()


def _keep_services_here() -> None:
    """Refuses packets that still go to a Service's own address after kube-proxy's translation: of a Service without
    pods, or one that it does not know yet. They would leave by the machine's default route, and somebody else might
    answer. Pods' packets are refused in the chain that the CNI plugin asks first: the next one accepts them all."""
    for chain in (_UNSERVED, _BEFORE_CNI):
        run(["iptables", "-N", chain], check=False)  # may be there
    rules = [
        [_UNSERVED, "-j", "REJECT"],
        *([chain, "-d", SERVICE_NETWORK, "-j", _UNSERVED] for chain in ("OUTPUT", _BEFORE_CNI)),
    ]
    for rule in rules:
        if run(["iptables", "-C", *rule], check=False).returncode != 0:
            run(["iptables", "-A", *rule])


def down(directory: Path) -> None:
    """Removes the bridge, all pods' addresses and firewall rules, and restores the kernel settings."""
    if Path("/sys/class/net", BRIDGE).exists():
        say("removing the pods' network")
        run(["ip", "link", "delete", BRIDGE])
    shutil.rmtree(_leases(directory), ignore_errors=True)
    for family in ("iptables", "ip6tables"):
        if shutil.which(family):
            _remove_rules(family)
    before = directory / "sysctls-before.json"
    if before.exists():
        for name, value in json.loads(before.read_text()).items():
            Path("/proc/sys", name).write_text(value)
        before.unlink()


def _leases(directory: Path) -> Path:
    return directory / "leases"


def _remove_rules(family: str) -> None:
    """Removes the chains of kubelet, kube-proxy and the CNI plugins, and the rules that lead to them."""
    saved = run([f"{family}-save"], check=False).stdout
    commands: list[str] = []
    for table in re.findall(r"^\*\w+$.*?^COMMIT$", saved, re.MULTILINE | re.DOTALL):
        lines = table.splitlines()
        ours = [line[1:].split()[0] for line in lines if line.startswith(tuple(":" + name for name in _CHAINS))]
        if not ours:
            continue
        leads = re.compile(r" -[jg] (?:" + "|".join(map(re.escape, ours)) + r")(?: |$)")
        foreign = [line for line in lines if line.startswith("-A") and line.split()[1] not in ours]
        commands += [lines[0]]
        commands += ["-D" + line[2:] for line in foreign if leads.search(line)]
        commands += [f"{action} {chain}" for action in ("-F", "-X") for chain in ours]
        commands += ["COMMIT"]
    if commands:
        run([f"{family}-restore", "--noflush"], stdin="\n".join(commands) + "\n")
