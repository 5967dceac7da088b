"""The interface of scenes that the rest of the program uses."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, TypeVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from magic123.example.example import Example
from magic123.geometry.camera import Camera
from magic123.records.errors import InputError
from magic123.render.rendering import PLAIN, Rendering, RenderOptions
from magic123.settings.losses import Losses
from magic123.settings.scenes import LearningRates
from magic123.settings.stage import StageSettings

StageKind = TypeVar("StageKind", bound=StageSettings)  # the settings class of a scene's stages


class Scene(nn.Module, ABC, Generic[StageKind]):
    """A scene in the cube [-1, 1]^3 that cameras can look at. Its tensors are parameters and buffers.

    Attributes:
        drawn_from_prior: whether the scene is made by `building.draw_scene`, from its prior and the views that will be
            rendered, instead of by `building.start_scene`.
        handover: how the scene was made from the one it started from (plain data, for the result's record).
    """

    drawn_from_prior: ClassVar[bool] = False

    @property
    def device(self) -> torch.device:
        """Where the scene's tensors are."""
        return next(itertools.chain(self.parameters(), self.buffers())).device

    def __init__(self) -> None:
        super().__init__()
        self.handover: dict[str, Any] = {}

    @classmethod
    @abstractmethod
    def build(cls, stage: StageKind, given: dict[str, Tensor]) -> Scene:
        """Return the untrained scene of a stage, on the CPU.

        Args:
            stage: the settings.
            given: tensors from which scenes of pictures or points take their data or size: the example's rgb [H, W, 3] and
                alpha [H, W, 1], or the state dict of a finished scene.
        """

    @classmethod
    def hand_over(cls, before: Scene, example: Example, stage: StageKind) -> Scene:
        """Return the scene of a stage that starts from a finished scene; by default one of the same class and sizes.

        Args:
            before: a scene that the stage can start from by `start_problem`.
            example: the example.
            stage: the settings.

        Raises:
            InputError: the scene cannot be taken over.
        """
        given = before.state_dict()
        scene = cls.build(stage, given)
        try:
            scene.load_state_dict(given)
        except RuntimeError as error:
            raise InputError("the scene's sizes differ from those of this stage's settings: give both the same") from error
        return scene

    @abstractmethod
    def render(self, camera: Camera, options: RenderOptions = PLAIN) -> Rendering:
        """Render a batch of B cameras.

        Args:
            camera: B cameras.
            options: shading, light, background and randomness.

        Returns:
            B pictures of the cameras' H x W pixels.
        """

    def learned_background(self, camera: Camera, offset: Float[Tensor, " 3"] | None = None) -> Float[Tensor, "B H W 3"] | None:
        """Return the background network's colours behind the pixels of B cameras; None if the scene has no such network.

        Args:
            camera: B cameras.
            offset: the noise on the rays' directions, for scenes in which it also affects the background.
        """
        return None

    @abstractmethod
    def parameter_groups(self, rates: LearningRates) -> list[dict]:
        """Return the optimizer's parameter groups; empty if nothing is trained."""

    def before_step(self, step: int, steps: int, generator: torch.Generator) -> None:
        """Prepare for step `step` of `steps`; random numbers come from `generator`."""

    @abstractmethod
    def regularizers(self, rendering: Rendering, weights: Losses) -> dict[str, Tensor]:
        """Return the unweighted scalar losses of the LOSSES table that have a weight and that this rendering allows."""

    @abstractmethod
    def mesh(self, resolution: int = 256) -> tuple[Float[Tensor, "V 3"], Int64[Tensor, "F 3"]] | None:
        """Return the surface: vertices [V, 3], faces [F, 3] int64, counter-clockwise from outside. None: it has none.

        Args:
            resolution: samples along each axis, if the surface is extracted from a density.
        """

    def cloud(self) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N 3"]] | None:
        """Return the points of a point cloud, positions [N, 3] and colours [N, 3] in [0, 1]; None for other scenes."""
        return None

    def albedo(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """Return colours [N, 3] in [0, 1] at points [N, 3] in [-1, 1], for a scene with a mesh."""
        raise NotImplementedError(f"a {type(self).__name__} has no mesh to colour")

    @abstractmethod
    def kernels(self) -> dict[str, str]:
        """Return which implementation of each kernel runs on the scene's device, for the result's record."""
