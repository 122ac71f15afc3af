"""``python -m flowrank.cli`` is the `flowrank` command."""

import sys

from flowrank.cli.program import main

if __name__ == "__main__":
    sys.exit(main())
