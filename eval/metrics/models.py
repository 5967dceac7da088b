"""Load the networks to score with. Each network whose weights are missing becomes a gap."""

from __future__ import annotations

from dataclasses import dataclass, field

from eval.metrics.registry import NETWORKS
from magic123.records.cards import Gap
from magic123.records.errors import InputError, MetricGap


@dataclass
class Models:
    """Loaded networks.

    Attributes:
        networks: Family of NETWORKS -> its loaded networks.
        gaps: One for each network whose weights are missing, and for each metric that could not be computed.
        device: The torch device.
    """

    networks: dict[str, list] = field(default_factory=dict)
    gaps: list[Gap] = field(default_factory=list)
    device: str = "cpu"

    def of(self, family: str | None) -> list:
        """Return the loaded networks of a family of NETWORKS."""
        return self.networks.get(family, []) if family else []


def load_models(places: dict[str, list[str]], device: str) -> Models:
    """Load networks.

    Args:
        places: Option of NETWORKS -> its values, which name the weights.
        device: The torch device.

    Raises:
        InputError: Weights are damaged or do not belong to the network, or two models would fill the same column.
    """
    models = Models(device=device)
    for option, network in NETWORKS.items():
        for place in places.get(option, []):
            try:
                models.networks.setdefault(network.family, []).append(network.load(place, device, True))
            except MetricGap as gap:
                trunk = place.partition("=")[0] if network.trunks else ""
                models.gaps.append(Gap(metric=network.gap + trunk, reason=str(gap)))
    miniatures = [model for model in models.of("lpips") if model.name == "lpips-mini"]
    if miniatures:  # the contextual distance uses the features of the miniature
        from eval.metrics.contextual import of_miniature

        models.networks.setdefault("contextual", []).extend(of_miniature(model) for model in miniatures)
    names = [model.name for loaded in models.networks.values() for model in loaded]
    if len(names) != len(set(names)):
        raise InputError(f"two models would fill the same column ({', '.join(sorted(names))}); score with one of each")
    return models
