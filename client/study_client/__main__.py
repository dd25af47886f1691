"""The programs `kubectl-study` and `kubectl_complete-study`, which kubectl starts."""

from __future__ import annotations

import os
import sys

from study_client.arguments import parse
from study_client.commands import run
from study_client.completion import completions
from study_client.errors import ClientError
from study_client.texts import one_line

_INTERRUPTED = 130  # as a shell has it for Ctrl-C


def main() -> None:
    """Run a command. An error is one line on standard error, and exit code 1."""
    given = parse(sys.argv[1:])
    try:
        code = run(given)
        sys.stdout.flush()
    except ClientError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


def complete() -> None:
    """Print completions of the command line so far, as kubectl asks for them."""
    names, directive = completions(sys.argv[1:])
    print("\n".join([*names, directive]))


if __name__ == "__main__":
    main()
