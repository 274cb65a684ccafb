"""`python -m flows` is the `hedgerow` command. Holds nothing else."""

import sys

from flows.cli import main

if __name__ == "__main__":
    sys.exit(main())
