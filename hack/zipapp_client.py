#!/usr/bin/env python3
"""Makes `kubectl-study` as one file, for krew and for machines without pip. It needs Python 3.11 and kubectl.

hack/zipapp_client.py [TARGET]      TARGET is dist/kubectl-study unless given

The file is the same whenever it is made of the same sources. It has what needs the standard library alone; `validate`
and `run --local` say that they need pip.
"""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "client/study_client"
_BEGINNING = b"#!/usr/bin/env python3\n"
_MAIN = "from study_client.__main__ import main\n\nmain()\n"
_WHEN = (1980, 1, 1, 0, 0, 0)  # the first time that a ZIP file can name


def build() -> bytes:
    """Return the file."""
    written = io.BytesIO()
    sources = sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        _add(archive, "__main__.py", _MAIN.encode())
        for path in sources:
            _add(archive, str(path.relative_to(PACKAGE.parent)), path.read_bytes())
    return _BEGINNING + written.getvalue()


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, _WHEN)
    entry.external_attr = 0o644 << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, content)


def main() -> None:
    """Write the file."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY / "dist/kubectl-study"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(build())
    target.chmod(0o755)
    print(f"{target}: {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
