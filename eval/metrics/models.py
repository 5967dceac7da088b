"""The networks to score with: what is there is loaded and proved, what is not becomes a named gap."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from magic123.records.cards import Gap
from magic123.records.errors import InputError, MetricGap


@dataclass
class Models:
    """Loaded networks and those that were asked for but are not there."""

    clip: list = field(default_factory=list)
    perceptual: list = field(default_factory=list)
    contextual: list = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    device: str = "cpu"


def _clip(where: str, device: str):
    from eval.metrics.clip import load_clip

    return load_clip(where, device)


def _mini(where: str, device: str):
    from eval.metrics.perceptual import load_mini

    return load_mini(Path(where), device)


def _lpips(where: str, device: str):
    from eval.metrics.perceptual import load_lpips

    net, equals, file = where.partition("=")
    if not equals:
        raise InputError(f"--lpips wants alex=FILE or vgg=FILE, got {where!r}")
    return load_lpips(net, Path(file), device)


def _contextual(where: str, device: str):
    from eval.metrics.contextual import load_vgg19

    backbone, equals, file = where.partition("=")
    if not equals or backbone != "vgg19":
        raise InputError(f"--contextual wants vgg19=FILE, got {where!r}")
    return load_vgg19(Path(file), device)


def load_models(
    clip: list[str], perceptual: list[str], lpips: list[str], device: str, contextual: list[str] | None = None
) -> Models:
    """Load them. Torch and open_clip, seconds of import, come in only when a model is named."""
    models = Models(device=device)
    wanted = [("clip", _clip, where, models.clip) for where in clip]
    wanted += [("lpips-mini", _mini, where, models.perceptual) for where in perceptual]
    wanted += [(f"lpips-{where.partition('=')[0]}", _lpips, where, models.perceptual) for where in lpips]
    wanted += [(f"contextual-{where.partition('=')[0]}", _contextual, where, models.contextual) for where in contextual or []]
    for name, load, where, loaded in wanted:
        try:
            loaded.append(load(where, device))
        except MetricGap as gap:
            models.gaps.append(Gap(metric=name, reason=str(gap)))
    if perceptual:
        from eval.metrics.contextual import of_miniature

        models.contextual += [of_miniature(model) for model in models.perceptual if model.name == "lpips-mini"]
    names = [model.name for model in models.clip + models.perceptual + models.contextual]
    if len(names) != len(set(names)):
        raise InputError(f"two models would fill one column ({', '.join(sorted(names))}); score with one of each")
    return models
