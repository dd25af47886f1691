"""Run the command `study-trial`, also as `python -m study_trial`."""

import sys

from study_trial._cli import main

if __name__ == "__main__":
    sys.exit(main())
