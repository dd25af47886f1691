"""`python -m study_trial` is the command `study-trial`."""

import sys

from study_trial._cli import main

if __name__ == "__main__":
    sys.exit(main())
