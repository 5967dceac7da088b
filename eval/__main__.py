"""`python -m eval COMMAND ...` is the same as `magic123 COMMAND ...`."""

import sys
from importlib import import_module

# by name: eval imports nothing of magic123 but its records, and this is the command line of both
main = import_module("magic123.__main__").main

if __name__ == "__main__":
    sys.exit(main())
