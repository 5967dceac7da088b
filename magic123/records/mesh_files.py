"""The files that belong to a mesh: materials, textures and buffers beside it. No torch: the Snakefile imports this module."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import unquote

SUFFIXES = (".glb", ".gltf", ".obj", ".ply")
LIBRARY, TEXTURE = (
    re.compile(rb"^[ \t]*mtllib[ \t]+(.+?)[ \t\r]*$", re.M),
    re.compile(rb"^[ \t]*map_\w+[ \t]+(.+?)[ \t\r]*$", re.M),
)


def files_of_mesh(path: Path) -> list[Path]:
    """Return a mesh file and the files beside it that it names, if they exist; the reader reports missing ones."""
    suffix, names = path.suffix.lower(), list[str]()
    try:
        if suffix == ".obj":
            names = [_text(name) for name in LIBRARY.findall(path.read_bytes())]
            for library in [path.parent / name for name in names]:
                names += [_text(name) for name in TEXTURE.findall(library.read_bytes())] if library.is_file() else []
        elif suffix == ".gltf":
            header = json.loads(path.read_bytes())
            named = [entry.get("uri", "") for kind in ("buffers", "images") for entry in header.get(kind, [])]
            names = [unquote(name) for name in named if not name.startswith("data:")]
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):  # damaged: the reader refuses it
        names = []
    beside = {path.parent / name for name in names if name}
    return [path, *sorted(file for file in beside if file.is_file())]


def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace").replace("\\", "/")
