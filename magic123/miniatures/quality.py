"""Quality of the miniatures on held-out objects, and whether a new training reaches that of the earlier ones."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from magic123.geometry.camera import Camera
from magic123.miniatures.objects import FIRST_HELD_OUT, make_object
from magic123.miniatures.picture import draw
from magic123.miniatures.pool import FOV, RADIUS, SIZE
from magic123.priors.latent_diffusion import decode, encode
from magic123.settings.cameras import ReferenceCamera

TRAININGS = "trainings.tsv"  # beside the shipped networks: figures of earlier trainings
COVERAGE = 0.9  # probability that a further training lies in the interval
NOVEL_VIEW_OBJECTS, AZIMUTHS, STEPS, GUIDANCE = 16, np.arange(-165, 181, 15), 20, 3.0
FAR = 45  # degrees: novel views from this azimuth on do not resemble the input view


@dataclass(frozen=True)
class Figure:
    """One measure of a network's quality on held-out objects.

    Attributes:
        network: name of the network's folder.
        name: name of the figure.
        larger_is_better: whether larger values are better.
        smallest_step: the smallest difference that can occur, for shares of a number of objects; otherwise 0.
    """

    network: str
    name: str
    larger_is_better: bool
    smallest_step: float = 0


ONE_OBJECT = 1 / 120  # of the held-out objects of the pool
FIGURES = (
    Figure("zero123", "denoising_loss", False),
    Figure("zero123", "novel_view_psnr", True),
    Figure("zero123", "autoencoder_psnr", True),
    Figure("stable-diffusion", "loss_caption", False),
    Figure("stable-diffusion", "loss_no_caption", False),
    Figure("stable-diffusion", "loss_other_caption", True),
    Figure("stable-diffusion", "autoencoder_psnr", True),
    Figure("clip", "text_to_image_recall_at_5", True, ONE_OBJECT),
    Figure("clip", "other_view_recall_at_1", True, ONE_OBJECT),
    Figure("clip", "similarity_same_object", True),
    Figure("clip", "similarity_other_object", False),
    Figure("dpt", "mean_absolute_error", False),
    Figure("dpt", "pearson_inside_the_mask", True),
    Figure("perceptual", "family_accuracy", True, ONE_OBJECT),
    Figure("perceptual", "colour_accuracy", True, ONE_OBJECT),
    Figure("perceptual", "distortions_ranked_right", True, ONE_OBJECT),
)


def render_on_white(toy, polar: float, azimuth: float) -> np.ndarray:
    """Return a picture of a toy object on white, [SIZE, SIZE, 3]; angles are in degrees."""
    pose = Camera.orbit(polar, azimuth, RADIUS, FOV, SIZE).camera_to_world[0].numpy()
    rgba = draw(toy, pose, FOV, SIZE, 3)[0]
    return (rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]).astype(np.float32)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Return the PSNR of two pictures in [0, 1], in dB."""
    return float(-10 * np.log10(max(np.mean((a - b) ** 2), 1e-10)))


def measure_views(folder: Path) -> tuple[dict, list[np.ndarray]]:
    """Compare novel views of held-out objects, sampled with DDIM, with the true views; it takes a minute or two.

    A copy of the input view, the mean picture, and the true views after the autoencoder are compared too.

    Args:
        folder: the folder of the miniature Zero-1-to-3.

    Returns:
        The PSNR by azimuth as JSON data, and rows of pictures for the figure: (input, samples) and true views.
    """
    from magic123.priors.zero123 import Zero123

    toys = [make_object(FIRST_HELD_OUT + 1000 + i) for i in range(NOVEL_VIEW_OBJECTS)]
    truth = np.stack([[render_on_white(toy, 90, float(a)) for a in AZIMUTHS] for toy in toys])
    mean_picture = truth.mean((0, 1))
    result: dict[str, list] = {"azimuths": AZIMUTHS.tolist(), "ddim": [], "copy": [], "mean_picture": [], "autoencoder": []}
    samples = []
    for i, toy in enumerate(toys):
        shown = render_on_white(toy, 90, 0)
        prior = Zero123.load(folder, torch.from_numpy(shown), ReferenceCamera())
        cameras = Camera.orbit(90.0, AZIMUTHS.astype(np.float32), RADIUS, FOV, SIZE)
        drawn = prior.sample(cameras, STEPS, GUIDANCE, torch.Generator().manual_seed(i), eta=0.0).clamp(0, 1).numpy()
        samples.append(drawn)
        result["ddim"].append([psnr(a, b) for a, b in zip(drawn, truth[i], strict=True)])
        with torch.no_grad():
            latents = encode(prior.vae, torch.from_numpy(truth[i]), SIZE)
            decoded = decode(prior.vae, latents).clamp(0, 1).numpy()
        result["autoencoder"].append([psnr(a, b) for a, b in zip(decoded, truth[i], strict=True)])
        result["copy"].append([psnr(shown, b) for b in truth[i]])
        result["mean_picture"].append([psnr(mean_picture, b) for b in truth[i]])
    rows = []
    for i in range(0, NOVEL_VIEW_OBJECTS, 3):
        pick = [1, 5, 9, 13, 17, 21]
        rows += [
            np.concatenate([render_on_white(toys[i], 90, 0), *samples[i][pick]], 1),
            np.concatenate([np.ones((SIZE, SIZE, 3)), *truth[i][pick]], 1),
        ]
    return {k: v if k == "azimuths" else np.mean(v, 0).round(3).tolist() for k, v in result.items()}, rows


def far_mean(views: dict, key: str) -> float:
    """Return the mean over azimuths of FAR degrees and beyond of one curve of novel-views.json."""
    far = np.abs(views["azimuths"]) >= FAR
    return float(np.mean(np.array(views[key])[far]))


def figures(folder: Path) -> dict[str, float]:
    """Return the figures of one trained network by their names.

    Args:
        folder: the folder of the network, named as in FIGURES or, for another seed, NAME-SEED. If novel views of a Zero-1-to-3
            were not measured yet, they are now (a minute or two).
    """
    found = dict(json.loads((folder / "training.json").read_text())["held_out"])
    if (folder / "vae" / "training.json").is_file():
        found["autoencoder_psnr"] = json.loads((folder / "vae" / "training.json").read_text())["held_out"]["psnr"]
    if (folder / "cc_projection").is_dir():
        measured = folder / "novel-views.json"
        if measured.is_file():
            views = json.loads(measured.read_text())
        else:
            views, _ = measure_views(folder)
        found["novel_view_psnr"] = far_mean(views, "ddim")
    return found


def trainings(folder: Path) -> pd.DataFrame:
    """Return the figures of the networks in a folder, with the columns network, recipe, seed, figure and value.

    Args:
        folder: has a folder for each network; networks that are missing are left out.
    """
    rows = []
    for network in dict.fromkeys(figure.network for figure in FIGURES):
        record = folder / network / "training.json"
        if not record.is_file():
            continue
        training, found = json.loads(record.read_text()), figures(folder / network)
        recipe = "{parameters} parameters, {steps} steps of {batch}, learning rate {learning_rate:g}".format(**training)
        rows += [(network, recipe, training["seed"], f.name, found[f.name]) for f in FIGURES if f.network == network]
    return pd.DataFrame(rows, columns=["network", "recipe", "seed", "figure", "value"])


def known_trainings(shipped: Path) -> pd.DataFrame:
    """Return the figures of the shipped networks, and below them those of earlier trainings with the same recipe."""
    own, earlier = trainings(shipped), pd.read_csv(shipped / TRAININGS, sep="\t")
    return pd.concat([own, earlier[earlier.recipe.isin(own.recipe)]], ignore_index=True)


def of_figure(table: pd.DataFrame, figure: Figure) -> pd.DataFrame:
    """Return the rows of one figure."""
    return table[(table.network == figure.network) & (table.figure == figure.name)]


def interval(values: np.ndarray, smallest_step: float = 0) -> tuple[float, float]:
    """Return the limits between which a further training lies with probability COVERAGE.

    It is Student's prediction interval for one more sample of a normal distribution: mean +- t s sqrt(1 + 1/n).

    Args:
        values: the figure in each of n >= 2 trainings.
        smallest_step: the interval has at least this distance from the values, so that equal values do not make it empty; if
            it is not 0, the values are shares, and the limits lie in [0, 1].
    """
    from scipy.stats import t

    n = len(values)
    half = t.ppf((1 + COVERAGE) / 2, n - 1) * values.std(ddof=1) * np.sqrt(1 + 1 / n)
    half += 1e-9 * abs(values.mean())  # the rounding of a mean of equal values
    low, high = min(values.mean() - half, values.min() - smallest_step), max(values.mean() + half, values.max() + smallest_step)
    return (max(low, 0.0), min(high, 1.0)) if smallest_step else (low, high)


def compare(trained: Path, shipped: Path) -> pd.DataFrame:
    """Compare trained networks with the shipped ones and with the spread of earlier trainings.

    Args:
        trained: folder of the trained networks.
        shipped: folder of the shipped networks and of TRAININGS.

    Returns:
        A row for each figure: network, seed, figure, better (higher or lower), value, shipped, low, high (limits of the
        interval) and result: `within`, `better` or `worse` than the interval, or `unknown` without an earlier training.
    """
    new, known = trainings(trained), known_trainings(shipped)
    rows = []
    for figure in FIGURES:
        values, before = of_figure(new, figure), of_figure(known, figure).value.to_numpy()
        if values.empty:
            continue
        value, low, high, result = values.value.item(), np.nan, np.nan, "unknown"
        if len(before) > 1:
            low, high = interval(before, figure.smallest_step)
            above, below = value > high, value < low
            result = "within" if not (above or below) else "better" if above == figure.larger_is_better else "worse"
        rows.append(
            {
                "network": figure.network,
                "seed": values.seed.item(),
                "figure": figure.name,
                "better": "higher" if figure.larger_is_better else "lower",
                "value": value,
                "shipped": before[0],
                "low": low,
                "high": high,
                "result": result,
            }
        )
    return pd.DataFrame(rows)


def sentence(table: pd.DataFrame) -> str:
    """Say in one sentence how trained networks compare with earlier trainings."""
    counts = table.result.value_counts()
    parts = [f"{counts.get(result, 0)} {result}" for result in ("within", "better", "worse", "unknown")]
    worse = [f"{row.network} {row.figure} {row.value:.4g} ({row.low:.4g} to {row.high:.4g})" for row in table.itertuples()
             if row.result == "worse"]  # fmt: skip
    text = f"{len(table)} figures against the {COVERAGE:.0%} intervals of earlier trainings: {', '.join(parts)}"
    text += f" ({1 - COVERAGE:.0%} lie outside by chance)"
    return text + (f". Worse: {'; '.join(worse)}" if worse else "")
