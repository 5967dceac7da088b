"""Which settings of a stage are read by a run: only these can affect its result."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import BaseModel
from repository_paths import REPOSITORY
from small_stages import write_disc
from tiny_diffusion import write_deepfloyd_if, write_stable_diffusion, write_zero123

from magic123.measure.benchmark import small
from magic123.optimise.reconstruct import reconstruct
from magic123.settings.common import Settings
from magic123.settings.method import Method
from magic123.settings.stage import OptimisedStage, SamplesStage, Stage, stage_settings
from magic123.settings.view import ViewSettings

# whose reads do not count: settings are written as a record, and a stage is watched
ASIDE = ("KindSettings._as_recorded", "StageWatch.__init__")
WORDS = {"prompt": "{subject}", "use_token": False}  # what a tiny text encoder can read
VIEWS = ViewSettings(sets={"ring": {"count": 1}, "elevated": None}, turntable_frames=1)


def parts_of(part: BaseModel, at: str = "") -> Iterator[tuple[str, BaseModel]]:
    """The settings objects within one, each with the path of what it holds: "" of the outermost, "field.grid." of a grid."""
    yield at, part
    for name in type(part).model_fields:
        value = getattr(part, name)
        inner = (
            {f"{at}{name}.{key}.": one for key, one in value.items()} if isinstance(value, dict) else {f"{at}{name}.": value}
        )
        for path, one in inner.items():
            if isinstance(one, BaseModel):
                yield from parts_of(one, path)


@contextmanager
def noting_reads(stage: Stage) -> Iterator[set[str]]:
    """Note the paths of the settings of a stage that are read while the context is open."""
    paths, noted = {id(part): path for path, part in parts_of(stage)}, set()

    def read(self: BaseModel, name: str):
        path = paths.get(id(self))
        if path is not None and name in type(self).model_fields and sys._getframe(1).f_code.co_qualname not in ASIDE:
            noted.add(path + name)
        return object.__getattribute__(self, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Settings, "__getattribute__", read, raising=False)
        yield noted


def tiny(stage: Stage) -> Stage:
    """The stage with few steps, pixels, samples and cells, whose priors are asked from the first step on, without a token."""
    if isinstance(stage, SamplesStage):
        return stage.model_copy(update={"sampling": stage.sampling.model_copy(update={"steps": 2})})
    assert isinstance(stage, OptimisedStage)
    values = small(stage).model_dump()
    values |= {"steps": 8, "reference_warmup": min(stage.reference_warmup, 1)}
    for name, prior in stage.priors.items():
        values["priors"][name] |= {"from_step": 0} | {key: value for key, value in WORDS.items() if hasattr(prior, key)}
    return stage_settings(**values)


class TinyRuns:
    """Runs of the stages of methods in a folder, for a disc, with random networks.

    Args:
        root: an empty folder.
    """

    def __init__(self, root: Path):
        self.root, self.example = root, write_disc(root)
        ramp = np.tile(np.linspace(20000, 60000, 64), (64, 1)).astype(np.uint16)
        Image.fromarray(ramp).save(root / "depth.png")
        record = json.loads((root / "example.json").read_text())
        (root / "example.json").write_text(json.dumps(record | {"depth_source": "file"}))
        self.networks = {
            "stable-diffusion": write_stable_diffusion(root / "stable-diffusion"),
            "deepfloyd-if": write_deepfloyd_if(root / "deepfloyd-if"),
            "zero123": write_zero123(root / "zero123"),
            "clip": REPOSITORY / "weights/miniature/clip",
        }

    def read(self, name: str, method: Method) -> dict[str, set[str]]:
        """The paths of the settings that a run of each stage of the method `name` reads."""
        noted = {}
        for key, full in method.stages.items():
            stage, out = tiny(full), self.root / name / key
            out.mkdir(parents=True)
            with noting_reads(stage) as noted[key]:
                reconstruct(
                    self.example,
                    stage,
                    0,
                    out,
                    init=stage.init and out.parent / stage.init,
                    weights={prior.weights: str(self.networks[prior.kind]) for prior in stage.priors.values()},
                    views=None if isinstance(stage, OptimisedStage) else VIEWS,
                )
        return noted
