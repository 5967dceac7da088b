"""A project folder of its own, with parts of this checkout as copies or as links."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from repository_paths import REPOSITORY


def project_folder(root: Path, *, copied: Iterable[str] = (), linked: Iterable[str] = ()) -> Path:
    """Make the folder and return it. It may exist, without these parts."""
    root.mkdir(parents=True, exist_ok=True)
    for name in linked:
        (root / name).symlink_to(REPOSITORY / name)
    for name in copied:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, root / name)
    return root
