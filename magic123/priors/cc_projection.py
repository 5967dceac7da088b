"""Zero-1-to-3's layer that projects an image embedding and a relative pose to one context token.

It has its own module because it subclasses diffusers' classes, and diffusers takes seconds to import.
"""

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn


class CCProjection(ModelMixin, ConfigMixin):
    """A linear layer from an image embedding and a pose vector, concatenated, to a context token.

    The defaults are Zero-1-to-3's: 768 channels of CLIP and 4 of the pose give 768.
    """

    @register_to_config
    def __init__(self, in_channel: int = 772, out_channel: int = 768):
        super().__init__()
        self.projection = nn.Linear(in_channel, out_channel)

    def forward(self, embedding_and_pose: Float[Tensor, "*batch in_channel"]) -> Float[Tensor, "*batch out_channel"]:
        """Project embeddings with the pose vector appended."""
        return self.projection(embedding_and_pose)
