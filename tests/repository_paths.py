"""Places in this checkout that several tests read."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
DEMO = REPOSITORY / "datasets" / "demo"
