"""What all settings have in common.

Angles are degrees, lengths are world units (the object lies in the cube [-1, 1]^3), weights multiply summed gradients (priors)
or mean losses. Defaults are those of Magic123's published code (coarse stage) unless a comment says otherwise.
No module of `settings` imports torch: the Snakefile imports them.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

Range = tuple[float, float]


class Settings(BaseModel):
    """Base of all settings: unknown keys are refused, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)
