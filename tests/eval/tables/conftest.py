"""A finished run, for the tables."""

import json
from itertools import product

import pytest
from result_tables import EXAMPLES, METHODS, SEEDS, number_of, value


@pytest.fixture
def run(tmp_path):
    """A finished run: plan.json and one scores.json per cell. `one_prior` has no mesh."""
    cells = []
    for example, method, seed in product(EXAMPLES, METHODS, SEEDS):
        folder = tmp_path / example / method / str(seed)
        folder.mkdir(parents=True)
        number = number_of(example, method, seed)
        values = [value("psnr", number), value("psnr", number + 10, "reference"), value("lpips-mini", 1 / number)]
        gaps = [{"metric": "clip", "reason": "needs CLIP weights at w, run it"}]
        if method == "both":
            values.append(value("chamfer", 0.01))
        else:
            gaps.append({"metric": "chamfer", "reason": "this method makes no mesh"})
        (folder / "scores.json").write_text(json.dumps({"scheme": "scores/1", "values": values, "gaps": gaps, "left_out": []}))
        cells.append({"dataset": "nerf4", "example": example, "method": method, "stage": "fine", "seed": seed,
                      "label": f"Row {method}", "path": str(folder)})  # fmt: skip
    (tmp_path / "plan.json").write_text(json.dumps({"cells": cells}))
    return tmp_path
