"""Writes a Study for a training script: `kubectl study init train.py`.

`scripts` reads what a script would take, without running it, and `manifest` makes the Study of that, with what is to be
checked. `command` reads the file and writes the other.
"""

from study_client.begin.command import init

__all__ = ["init"]
