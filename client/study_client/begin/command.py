"""Reads a script and writes the Study beside it. It asks nothing, and never writes over a file."""

from __future__ import annotations

import sys
from pathlib import Path

from study_client.begin.manifest import written
from study_client.begin.scripts import found_in
from study_client.errors import ClientError
from study_client.texts import one_line

_MOST_BYTES = 1_000_000


def init(script: str, file: str) -> int:
    """Write a Study for a script, and say what to check in it.

    Raises:
        ClientError: the script cannot be read, has nothing to tune, or the file is there already.
    """
    path = Path(script)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ClientError(f"{script} has more than {_MOST_BYTES} bytes, and is no training script")
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ClientError(f"{script} cannot be read: {one_line(str(error))}") from None
    text, checks = written(found_in(source, script), path.name)
    if file == "-":
        print(text, end="")
    else:
        try:
            with Path(file).open("x", encoding="utf-8") as opened:
                opened.write(text)
        except FileExistsError:
            raise ClientError(f"{file} is there already: --file names another one, - is standard output") from None
        except OSError as error:
            raise ClientError(f"{file} cannot be written: {error.strerror}") from None
        print(f"{file} is written; check:")
    for check in checks:
        print(f"  - {one_line(check)}", file=sys.stderr if file == "-" else sys.stdout)
    return 0
