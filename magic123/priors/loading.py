"""The priors that a stage asks for, conditioned on its example. Nothing heavy comes in before it is needed."""

from __future__ import annotations

from pathlib import Path

from magic123.records.errors import InputError
from magic123.records.hashes import fingerprint
from magic123.settings.config import PriorSettings, Stage


def load_priors(
    stage: Stage, example, token: Path | None, reference: list[Path] | None, weights: dict[str, str], device: str = "cpu"
) -> dict:
    """The stage's priors, conditioned on the example. A weight of 0 needs no model and loads none."""
    from magic123.example.example import load_example

    priors = {}
    for name, settings in stage.priors.items():
        if not settings.weight:
            continue
        if settings.weights not in weights:
            raise InputError(f"the prior {name} needs the weights {settings.weights}: give --weights {settings.weights}=FOLDER")
        folder = Path(weights[settings.weights])
        if settings.kind in ("stable-diffusion", "stable-diffusion-xl", "deepfloyd-if"):
            if settings.tokened and token is None:
                raise InputError(f"the prior {name} uses a learned token: give --token, or set use_token to false")
            prior = prompted_prior(settings, folder, example, token, device)
        elif settings.kind == "clip":
            from magic123.priors.clip_reference import ClipReference

            kinds = {other: (stage.priors[other].kind, stage.priors[other].weights) for other in priors}
            alike = [priors[other] for other, kind in kinds.items() if kind == ("clip", settings.weights)]
            prior = alike[0] if alike else ClipReference.load(folder, example.rgb, dtype=settings.dtype, device=device)
        else:
            from magic123.priors.zero123 import Zero123

            shown, others = [example], [load_example(other) for other in reference or []]
            if settings.reference != "own":
                wanted = 1 if settings.reference == "next-example" else len(settings.reference) - 1
                if len(others) != wanted:
                    raise InputError(
                        f"the prior {name} is to see {wanted} other example's picture and {len(others)} were given: "
                        "give --reference once for each"
                    )
                shown = others if settings.reference == "next-example" else [example, *others]
            prior = Zero123.load(
                folder, [one.rgb for one in shown], [one.camera for one in shown], dtype=settings.dtype, device=device
            )
            prior.record["reference"] = shown[0].name if len(shown) == 1 else [one.name for one in shown]
        prior.fingerprint = fingerprint(folder)
        priors[name] = prior
    return priors


def prompted_prior(settings: PriorSettings, folder: Path, example, token: Path | None, device: str):
    """Return a text-conditioned prior, prompted with the example's caption or its token."""
    from magic123.priors.deepfloyd_if import DeepFloydIF
    from magic123.priors.stable_diffusion import StableDiffusion
    from magic123.priors.stable_diffusion_xl import StableDiffusionXL

    kinds = {"stable-diffusion": StableDiffusion, "stable-diffusion-xl": StableDiffusionXL, "deepfloyd-if": DeepFloydIF}
    own = {"token_file": token if settings.use_token else None} if settings.kind == "stable-diffusion" else {}
    return kinds[settings.kind].load(
        folder,
        prompt=settings.prompt.replace("{name}", example.name),
        subject=example.prompt,
        view_prompts=settings.view_prompts,
        front_azimuth=example.camera.azimuth,
        dtype=settings.dtype,
        device=device,
        **own,
    )
