"""The versions of the commands' results."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

# One number per command: raise it when the command's results change for the same settings. Snakemake cannot see the
# code of an imported package, so this number is what makes it run the command again.
VERSIONS = {"convert": 1, "prepare": 2, "invert": 2, "reconstruct": 3, "view": 2, "score": 5, "table": 3, "report": 3}
VERSIONS |= {"from-mesh": 3, "adopt-mesh": 5, "external": 1}

# The same for settings of a stage, by path: raise one when only stages that use the setting give different results, so that
# only these run again. A number may be removed when that of `reconstruct` is raised.
SETTING_VERSIONS = {"losses.normal_blur_detached": 2}  # 2: of normals in [-1, 1], not of normals as colours


def setting_versions(stage: BaseModel) -> list[str]:
    """Return the settings with a version that a stage uses, each with its version."""
    used = []
    for path, version in SETTING_VERSIONS.items():
        value: Any = stage
        for name in path.split("."):
            value = getattr(value, name, None)
        if value:
            used.append(f"{path} {version}")
    return used
