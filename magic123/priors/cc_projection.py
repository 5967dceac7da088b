"""Zero-1-to-3's layer that joins an image embedding and a relative pose into one context token.

A file of its own, because a diffusers class can only be defined once diffusers is imported.
"""

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn


class CCProjection(ModelMixin, ConfigMixin):
    """Linear [..., in_channel] -> [..., out_channel]; Zero-1-to-3: 768 of CLIP + 4 of the pose -> 768."""

    @register_to_config
    def __init__(self, in_channel: int = 772, out_channel: int = 768):
        super().__init__()
        self.projection = nn.Linear(in_channel, out_channel)

    def forward(self, embedding_and_pose: Tensor) -> Tensor:
        return self.projection(embedding_and_pose)
