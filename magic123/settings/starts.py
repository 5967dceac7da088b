"""Whether a stage can take over the scene of the stage that it starts from.

Asked when methods are read, and again when a stage runs: --init may name any finished stage.
"""

from __future__ import annotations

from typing import Any

from magic123.settings.common import ABSENT, leaves
from magic123.settings.stage import StageSettings

BACKGROUND_SIZES = {"background.frequencies", "background.hidden", "background.layers"}
# settings whose change gives a scene's tensors other sizes, or makes the same numbers another scene
STRUCTURE = BACKGROUND_SIZES | {
    "field.hidden", "field.layers", "field.bound", "field.grid.levels", "field.grid.features", "field.grid.log2_entries",
    "field.grid.base_resolution", "field.grid.finest_resolution", "field.grid.nodes", "field.grid.interpolation",
    "nerf.occupancy_resolution", "dmtet.grid_resolution", "dmtet.lattice", "points.features", "points.scales", "points.width",
}  # fmt: skip
# settings of a field that a mesh may have of its own: the weights mean the same with any of them
FREE = ("field.coarse_to_fine", "field.normal_epsilon", "field.progressive_levels", "field.grid.backend")


def start_problem(stage: StageSettings, before: StageSettings) -> str | None:
    """Return why a stage cannot start from another one, and what to do; None if it can.

    Args:
        stage: the settings of the stage.
        before: the settings of the stage that it would start from.
    """
    possible = (stage.scene, *stage.also_starts_from)
    if before.scene not in possible:
        return f"its scene is {before.scene}; name a {' or '.join(possible)} stage"
    here, there = leaves(stage.model_dump()), leaves(before.model_dump())
    if before.scene == stage.scene:
        compared = STRUCTURE
    elif stage.scene == "dmtet":  # takes over the field, and its background network if it has one
        compared = {path for path in here | there if path.startswith("field.") and not path.startswith(FREE)}
        compared |= BACKGROUND_SIZES & here.keys()
    else:
        return None
    different = [path for path in {**here, **there} if path in compared and here.get(path, ABSENT) != there.get(path, ABSENT)]
    said = dict.fromkeys(_difference(path, here, there) for path in different)
    return f"{', '.join(said)}; give both stages the same" if said else None


def _difference(path: str, here: dict[str, Any], there: dict[str, Any]) -> str:
    """Return how a setting of two stages differs; of a part that only one of them has, its name.

    Some settings are left out of a part where they have their default.
    """
    part = path.rpartition(".")[0]
    if all(any(known.startswith(f"{part}.") for known in stage) for stage in (here, there)):
        return f"{path} is {here.get(path, 'the default')} here and {there.get(path, 'the default')} there"
    return f"{part} is {'given' if path in here else ABSENT} here and {'given' if path in there else ABSENT} there"
