"""`python -m eval COMMAND ...` is the same as `magic123 COMMAND ...`."""

import sys
from importlib import import_module

# imported by name: of magic123, eval imports only the records, but the command line is shared
main = import_module("magic123.__main__").main

if __name__ == "__main__":
    sys.exit(main())
