"""Model cards of the miniatures: what each was trained on, for how long, and its quality on held-out objects."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from magic123.miniatures.autoencoder import LATENT_CHANNELS, LATENT_SIDE
from magic123.miniatures.families import FAMILIES
from magic123.miniatures.objects import FIRST_HELD_OUT, make_object
from magic123.miniatures.pool import DRAWN, SIZE
from magic123.miniatures.quality import (
    COVERAGE,
    FIGURES,
    GUIDANCE,
    NOVEL_VIEW_OBJECTS,
    STEPS,
    TRAININGS,
    far_mean,
    interval,
    known_trainings,
    measure_views,
    of_figure,
)

ABOUT = {
    "zero123": "Zero-1-to-3: a view-conditioned latent diffusion model (the 3D prior).",
    "stable-diffusion": "Stable Diffusion: a text-conditioned latent diffusion model with its own tokenizer (the 2D prior).",
    "clip": "CLIP in open_clip format, for similarity scores; its image tower conditions the miniature Zero-1-to-3.",
    "dpt": "DPT: monocular inverse depth.",
    "perceptual": "The trunk and channel weights of an LPIPS-shaped distance, reported as `lpips-mini`.",
}
# What was measured on held-out objects, from `held_out` in training.json.
HELD_OUT = {
    "zero123": "Denoising loss on held-out objects: {denoising_loss:.3g}.",
    "stable-diffusion": "Denoising loss on {objects} held-out objects: {loss_caption:.3g} with the object's own caption, "
    "{loss_other_caption:.3g} with another object's, {loss_no_caption:.3g} without a caption.",
    "clip": "On {objects} held-out objects: for {text_to_image_recall_at_5:.1%} of the captions the object's picture is among "
    "the five most similar ones; for {other_view_recall_at_1:.1%} of the pictures the most similar other view is of the same "
    "object. Mean cosine similarity: {similarity_same_object:.3g} between two views of one object, "
    "{similarity_other_object:.3g} between views of different objects.",
    "dpt": "On {objects} held-out objects, inside the mask: mean absolute error {mean_absolute_error:.3g}, correlation with "
    "the true inverse depth {pearson_inside_the_mask:.3g}.",
    "perceptual": "On {objects} held-out objects: the family is right for {family_accuracy:.1%}, the colour for "
    "{colour_accuracy:.1%}; of a distortion at two strengths, the stronger has the larger distance in "
    "{distortions_ranked_right:.1%} of the pairs.",
}
INTRODUCTION = """# The miniatures

Small models trained from scratch on procedural toy objects (`magic123/miniatures/`). They have the file formats of the real
models and are loaded by the same code. They know toys of ten families and nothing else, and numbers computed with them say so
in their names. The 2D prior sees pictures of 64 pixels, all others of 32. Licence: Apache-2.0, like the code.

`uv run snakemake miniatures` trains them again, into `results/miniatures/`, and compares the quality of the new networks with
the spread that is stated [below](#retraining). The seeds, the settings and the loss curves are in each folder's
`training.json`. Times were measured on one CPU thread of a busy machine. Parameters are those that were
trained in this time: those of the autoencoders are listed at the end, and Zero-1-to-3's image encoder is CLIP's.
"""
VIEWS_TEXT = """Novel views of {objects} held-out objects beat the copy of the input view by {gain:.1f} dB on average over
azimuths of 45 degrees and beyond ({ours:.1f} against {copied:.1f} dB; all numbers are in `zero123/novel-views.json`). The true
views, encoded and decoded by the autoencoder, reach {ceiling:.1f} dB, which is an upper limit for samples.

![PSNR by azimuth](zero123/novel-views.png)

Input view and samples (upper rows), and the true views (lower rows):

![samples](zero123/samples.png)

Valid range: reference views at polar angles of about 65 to 95 degrees and radius 1.8, targets at polar angles of 50 to 100
degrees and the same radius. The difference of the distances was always 0 in training, so other radii give meaningless views.
"""
TEXT_TEXT = """Samples (DDIM) for captions of held-out objects, as seen from the front, the side and the back:

![samples](stable-diffusion/samples.png)
"""
RETRAINING = """
## Retraining

Figures on held-out objects of the shipped networks and of other trainings, which share the shipped networks' inputs (pictures,
autoencoders, CLIP). In the interval a figure of one more training lies with probability {coverage:.0%} (Student's prediction
interval, which is wide for few trainings).

`uv run snakemake miniatures` ends with this comparison for the networks that it trained, in
`results/miniatures/quality.tsv`. `python -m magic123 miniatures NETWORK --seed N ...` trains with another seed.
"""


def text_samples(folder: Path) -> np.ndarray:
    """Sample the text-conditioned prior: one picture in [0, 1], with a row for each view and a column for each family."""
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, safety_checker=None, local_files_only=True, torch_dtype=torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    captions = [make_object(FIRST_HELD_OUT + 1000 + i).caption for i in range(len(FAMILIES))]
    prompts = [f"{caption}, {view} view" for view in ("front", "side", "back") for caption in captions]
    drawn = pipeline(
        prompts,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images
    return np.concatenate([np.concatenate(row, 1) for row in np.split(drawn, 3)], 0)


def save_enlarged(picture: np.ndarray, times: int, file: Path) -> None:
    """Write a picture in [0, 1], in which each pixel becomes a square of `times` pixels a side."""
    from PIL import Image

    sheet = Image.fromarray((picture * 255).round().astype(np.uint8))
    sheet.resize((sheet.width * times, sheet.height * times), Image.Resampling.NEAREST).save(file, optimize=True)


def plot_views(result: dict, file: Path) -> None:
    """Plot what `measure_views` returned."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.6), dpi=130)
    for key, label, colour in (
        ("ddim", f"miniature Zero-1-to-3 (DDIM {STEPS}, guidance {GUIDANCE:g})", "#1f5fbf"),
        ("autoencoder", "the true view through the autoencoder", "#3a8f5a"),
        ("copy", "copy of the input view", "#c2521b"),
        ("mean_picture", "mean picture", "#8a8a8a"),
    ):
        axes.plot(result["azimuths"], result[key], "o-", ms=3, label=label, color=colour)
    axes.axvspan(-45, 45, color="#000000", alpha=0.05, lw=0)
    axes.set(xlabel="azimuth from the input view (degrees)", ylabel="PSNR (dB)", xlim=(-168, 183), ylim=(6, 36))
    axes.set_xticks(range(-135, 181, 45))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="lower center", ncol=2, fontsize=8)
    axes.set_title(f"Novel views of {NOVEL_VIEW_OBJECTS} held-out objects", fontsize=10)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(file)
    plt.close(figure)


def size_of(folder: Path) -> float:
    """Return the total size of the files in a folder in MiB."""
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 2**20


def retraining(weights: Path) -> list[str]:
    """Return the lines of the card about the spread between trainings."""
    known = known_trainings(weights)
    lines = [
        RETRAINING.format(coverage=COVERAGE),
        "| network | figure | better | shipped | other trainings | interval |",
        "|---|---|---|---|---|---|",
    ]
    for figure in FIGURES:
        found = of_figure(known, figure)
        value, *others = found.value
        listed = [f"{other:.4g} (seed {seed})" for other, seed in zip(others, found.seed[1:], strict=True)]
        limits = "{:.4g} to {:.4g}".format(*interval(np.array([value, *others]), figure.smallest_step)) if others else "—"
        lines.append(
            f"| {figure.network} | {figure.name.replace('_', ' ')} | {'higher' if figure.larger_is_better else 'lower'} "
            f"| {value:.4g} | {', '.join(listed) or '—'} | {limits} |"
        )
    return lines


def make_cards(weights: Path) -> None:
    """Write zero123/novel-views.{json,png}, zero123/samples.png and README.md under `weights`."""
    result, rows = measure_views(weights / "zero123")
    (weights / "zero123" / "novel-views.json").write_text(json.dumps(result, indent=1) + "\n")
    plot_views(result, weights / "zero123" / "novel-views.png")
    save_enlarged(np.concatenate(rows, 0), 3, weights / "zero123" / "samples.png")
    save_enlarged(text_samples(weights / "stable-diffusion"), 2, weights / "stable-diffusion" / "samples.png")
    ours, copied, ceiling = (far_mean(result, key) for key in ("ddim", "copy", "autoencoder"))
    gain = ours - copied
    lines = [INTRODUCTION]
    for name, about in ABOUT.items():
        record = json.loads((weights / name / "training.json").read_text())
        lines += [
            f"## {name}",
            "",
            about,
            "",
            "| parameters | steps | batch | learning rate | seed | time | size |",
            "|---|---|---|---|---|---|---|",
            f"| {record['parameters']:,} | {record['steps']:,} | {record['batch']} | {record['learning_rate']:g} "
            f"| {record['seed']} "
            f"| {record['seconds'] / 60:.0f} min | {size_of(weights / name):.1f} MiB |",
            "",
            HELD_OUT[name].format(**record["held_out"]),
            "",
        ]
        if name == "zero123":
            lines.append(VIEWS_TEXT.format(objects=NOVEL_VIEW_OBJECTS, gain=gain, ours=ours, copied=copied, ceiling=ceiling))
        if name == "stable-diffusion":
            lines.append(TEXT_TEXT)
    lines += ["## autoencoders (one in each prior)", ""]
    for name, size in (("zero123", SIZE), ("stable-diffusion", DRAWN)):
        vae = json.loads((weights / name / "vae" / "training.json").read_text())
        lines.append(
            f"- `{name}/vae`: AutoencoderKL, {vae['parameters']:,} parameters, {size} x {size} x 3 to {LATENT_SIDE} x "
            f"{LATENT_SIDE} x {LATENT_CHANNELS[size]}; "
            f"trained for {vae['steps']:,} steps of {vae['batch']} pictures, {vae['seconds'] / 60:.0f} min; "
            f"PSNR {vae['held_out']['psnr']:.1f} dB over {vae['held_out']['pictures']} held-out pictures."
        )
    if (weights / TRAININGS).is_file():
        lines += retraining(weights)
    (weights / "README.md").write_text("\n".join(lines) + "\n")
    print(f"cards: DDIM beats copying by {gain:.2f} dB beyond 45 degrees; {size_of(weights):.1f} MiB in all")
