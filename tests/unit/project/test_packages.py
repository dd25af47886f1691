"""The local cluster's tool installs Debian packages: apt-get fails while another apt-get runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).resolve().parents[3] / "hack/local-cluster"
# Fails as the real one does when it finds another one at work, and brings conntrack.
APT_GET = """\
#!/bin/sh
mkdir "$BIN/lock" || exit 100
sleep 0.2
[ "$1" = install ] && printf '#!/bin/sh\n' > "$BIN/conntrack" && chmod +x "$BIN/conntrack"
rmdir "$BIN/lock"
"""
ENSURE = "import os; os.geteuid = lambda: 0; import packages; packages.ensure(['conntrack'])"


def test_test_processes_that_start_side_by_side_do_not_disturb_one_another(tmp_path: Path):
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "apt-get").write_text(APT_GET)
    (binaries / "apt-get").chmod(0o755)
    for program in ("sh", "mkdir", "rmdir", "sleep", "chmod"):
        (binaries / program).symlink_to(f"/bin/{program}")
    env = {"PATH": str(binaries), "BIN": str(binaries), "PYTHONPATH": str(TOOL), "STUDY_OPERATOR_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", ENSURE]
    side_by_side = [subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate(timeout=60)[1] for process in side_by_side]
    assert [process.returncode for process in side_by_side] == [0, 0, 0], said
    assert os.access(binaries / "conntrack", os.X_OK)
