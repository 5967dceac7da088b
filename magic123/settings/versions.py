"""The versions of the commands' results."""

from __future__ import annotations

# One number per command: raise it when the command's results change for the same settings. Snakemake cannot see the
# code of an imported package, so this number is what makes it run the command again.
VERSIONS = {"convert": 1, "prepare": 2, "invert": 2, "reconstruct": 2, "view": 2, "score": 5, "table": 3, "report": 3}
VERSIONS |= {"from-mesh": 1, "adopt-mesh": 3, "external": 1}
