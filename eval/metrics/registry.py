"""The tables METRICS and NETWORKS, which define all metrics. Add a metric by adding a row.

A metric computed from arrays alone is a function in its module and a row in METRICS that names the function. A metric
that uses a network is a row in METRICS that names the network's family, and a row in NETWORKS that says how to load it.
Scoring, command-line options, tables, page, column keys and messages about missing values all read these two tables.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from eval.metrics.image_metrics import SSIM_SIGMA, psnr, ssim
from eval.metrics.mesh_metrics import F_SCORE_THRESHOLD, SAMPLES, VOXELS, volume_iou
from magic123.records.errors import InputError

if TYPE_CHECKING:
    from eval.metrics.clip import ClipModel
    from eval.metrics.contextual import ContextualMetric
    from eval.metrics.perceptual import PerceptualMetric

IMAGES = ("numpy", "opencv-python-headless")  # libraries behind every metric of pictures
MESHES = ("numpy", "scipy", "trimesh")
BOTH = ("corrected", "as-published")
ALL = (*BOTH, "syncdreamer")

Needs = Literal["truth", "reference picture", "caption", "captions", "ring", "true mesh"]


@dataclass(frozen=True)
class Variant:
    """What a protocol computes instead of a metric's own definition.

    Attributes:
        compute: As in Metric.
        details: As in Metric.
        libraries: As in Metric.
        range: As in Metric.
    """

    compute: Callable
    details: str
    libraries: tuple[str, ...]
    range: str


@dataclass(frozen=True)
class Metric:
    """One family of metrics. A metric's name starts with its family's, perhaps with a suffix: `psnr`, `psnr-ring`.

    Attributes:
        label: The name in tables.
        higher_is_better: Whether larger values are better.
        digits: Printed decimals.
        needs: What a result is compared with.
        compute: A pure function of an `eval.metrics.measure.Pair` (needs: truth) or `MeshPair` (needs: true mesh), which
            returns a float or raises MetricGap; None for metrics that use a network.
        network: The family of networks in NETWORKS that computes it, or None.
        range: Range of the compared pixels or coordinates; None if each network has its own.
        protocols: The protocols (`eval.pictures.protocols`) under which it is computed.
        variants: Protocols that compute it differently.
        published_views: The view set that it is computed on under `as-published`.
        libraries: Distributions whose versions go into the card, in addition to the network's own.
        details: Additions to the card's full name, or a function of the pair that returns them.
        gaps: Suffix of the name ("" for any) -> the metric whose gap explains why this one has no value.
        version: Increase it when the same pictures get a different value.
        unit: Printed after the value.
    """

    label: str
    higher_is_better: bool
    digits: int
    needs: Needs
    compute: Callable | None = None
    network: str | None = None
    range: str | None = "[0, 1]"
    protocols: tuple[str, ...] = ("corrected",)
    variants: dict[str, Variant] = field(default_factory=dict)
    published_views: Literal["reference", "all"] = "reference"
    libraries: tuple[str, ...] = IMAGES
    details: str | Callable = ""
    gaps: dict[str, str] = field(default_factory=dict)
    version: int = 1
    unit: str = ""


# Their module compiles numba functions, so it is imported only when they are computed.
def _seen_chamfer(pair: Any) -> float:
    from eval.metrics.syncdreamer import seen_chamfer

    return seen_chamfer(pair.mesh, pair.truth)


def _parity_iou(pair: Any) -> float:
    from eval.metrics.syncdreamer import parity_iou

    return parity_iou(pair.mesh, pair.truth)


# The longest matching name wins: "psnr-mask-ring" is psnr-mask over the set "ring", "lpips-mini" is LPIPS with the
# miniature network. Values are written to scores.json in this order, CLIP's before other networks'.
METRICS = {
    "psnr": Metric(
        "PSNR", True, 2, "truth", lambda pair: psnr(pair.render, pair.truth), protocols=ALL, unit="dB"
    ),
    "psnr-mask": Metric("PSNR (mask)", True, 2, "truth", lambda pair: psnr(pair.render, pair.truth, pair.mask), unit="dB"),
    "ssim": Metric(
        "SSIM", True, 3, "truth", lambda pair: ssim(pair.render, pair.truth),
        libraries=(*IMAGES, "scikit-image"), details=f"gaussian-{SSIM_SIGMA}", protocols=("corrected", "syncdreamer"),
        variants={
            "syncdreamer": Variant(
                lambda pair: ssim(pair.render, pair.truth, None), f"gaussian-{SSIM_SIGMA}.own-range", (*IMAGES, "scikit-image"),
                "[0, 1]",
            )
        },
    ),
    "lpips": Metric("LPIPS", False, 3, "truth", network="lpips", range="[-1, 1]", protocols=ALL),
    "clip": Metric(
        "CLIP-similarity", True, 3, "reference picture", network="clip", range=None, protocols=BOTH, published_views="all",
        details="image-image",
    ),
    "clip-text": Metric(
        "CLIP-similarity to the caption", True, 3, "caption", network="clip", range=None, protocols=BOTH,
        published_views="all", details="image-text",
    ),
    "chamfer": Metric(
        "Chamfer", False, 4, "true mesh", lambda pair: pair.distances["chamfer"], range="world units", libraries=MESHES,
        details=f"unaligned.{SAMPLES}-samples", protocols=("corrected", "syncdreamer"),
        variants={
            "syncdreamer": Variant(
                _seen_chamfer, "unaligned.seen-by-16-cameras",
                ("numpy", "scipy", "trimesh", "numba"), "the true mesh's box, longest side 1",
            )
        },
    ),
    "f-score": Metric(
        "F-score", True, 3, "true mesh", lambda pair: pair.distances["f-score"], range="world units", libraries=MESHES,
        details=f"unaligned.{SAMPLES}-samples.threshold-{F_SCORE_THRESHOLD}",
    ),
    "volume-iou": Metric(
        "Volume IoU", True, 3, "true mesh", lambda pair: volume_iou(pair.mesh, pair.truth), range="world units",
        libraries=MESHES, details=lambda pair: f"unaligned.{VOXELS}-voxels-filled.{pair.closed}",
        protocols=("corrected", "syncdreamer"),
        variants={
            "syncdreamer": Variant(
                _parity_iou, "unaligned.64-points-by-parity",
                ("numpy", "trimesh", "numba"), "the true mesh's box, longest side 1",
            )
        },
    ),
    "contextual": Metric(
        "Contextual", False, 3, "reference picture", network="contextual", range="[-1, 1]", gaps={"mini": "lpips-mini"}
    ),
    "r-precision": Metric(
        "CLIP R-precision", True, 3, "captions", network="clip", range=None, details="image-text", gaps={"": "clip"}
    ),
    "consistency-clip": Metric(
        "Self-consistency, CLIP", True, 3, "ring", network="clip", range=None, details="image-image", gaps={"": "clip"}
    ),
    "consistency-lpips": Metric(
        "Self-consistency, LPIPS", False, 3, "ring", network="lpips", range="[-1, 1]", gaps={"": "lpips"}
    ),
}  # fmt: skip


def family(name: str) -> str:
    """Return the family that a metric's name belongs to.

    Raises:
        InputError: The name does not start with a family of METRICS.
    """
    fitting = [prefix for prefix in METRICS if name == prefix or name.startswith(f"{prefix}-")]
    if not fitting:
        raise InputError(f"unknown metric {name!r}: it starts with none of {', '.join(METRICS)}")
    return max(fitting, key=len)


def describe(name: str) -> Metric:
    """Return the row of a metric by its name; the suffix after the family's name is added to the label."""
    prefix = family(name)
    metric, rest = METRICS[prefix], name[len(prefix) + 1 :]
    return replace(metric, label=f"{metric.label} {rest}") if rest else metric


def rows(needs: Needs, protocol: str = "corrected") -> dict[str, Metric]:
    """Return the rows of METRICS with the given needs that a protocol computes, in the protocol's variant."""
    found = {name: row for name, row in METRICS.items() if row.needs == needs and protocol in row.protocols}
    return {name: as_under(row, protocol) for name, row in found.items()}


def as_under(row: Metric, protocol: str) -> Metric:
    """Return the row of a metric in a protocol's variant, if it has one."""
    if (variant := row.variants.get(protocol)) is None:
        return row
    return replace(row, compute=variant.compute, details=variant.details, libraries=variant.libraries, range=variant.range)


def default_views(metric: Metric, protocol: str) -> Literal["reference", "novel", "all"]:
    """Return the view set of a column that does not name one."""
    if protocol == "as-published":
        return metric.published_views
    return "all" if protocol == "syncdreamer" and metric.needs != "true mesh" else "novel"


def name_with(family: str, model: LoadedNetwork) -> str:
    """Return the name of a family's metric with one network: ("r-precision", clip-bigG-14) -> r-precision-bigG-14."""
    return f"{family}-{model.name.partition('-')[2]}"


def explained_by(name: str) -> str:
    """Return the metric whose gap explains why this one has no value; the name itself if it has a gap of its own."""
    prefix = family(name)
    gaps = METRICS[prefix].gaps
    return gaps.get(name[len(prefix) + 1 :]) or gaps.get("") or name


# ----------------------------------------------------------------------------------------------------------- networks
class LoadedNetwork(Protocol):
    """A network with its weights.

    Its methods depend on the rows that refer to its family: `compare(renders, truths)`, from two lists of pictures to a
    list of floats (needs: truth, ring); `similarity(picture, renders)` (needs: reference picture); CLIP also has `encode`
    and `encode_captions`.

    Attributes:
        name: Family, "-", and the name of the network: `lpips-vgg`.
        file: Its weights.
        sha256: SHA-256 of that file.
        size: Side in pixels of the pictures that it compares.
        libraries: Distributions whose versions go into the metric card.
        range: Range of its input, for the cards of rows without a range of their own.
        details: Additions to the card's full name.
        canary: Result of the comparison with the canary, in words.
    """

    name: str
    file: Path
    sha256: str
    size: int
    libraries: tuple[str, ...]
    range: str
    details: str
    canary: str


@dataclass(frozen=True)
class Network:
    """One option of `score` that names the weights of a network.

    Attributes:
        family: The family of networks that rows of METRICS refer to.
        help: Help text of the option.
        load: (place, device, prove) -> a LoadedNetwork, where `place` is the value of the option; raises MetricGap if the
            weights are missing. `prove` compares it with its canary, if it has one.
        trunks: Allowed values of TRUNK in TRUNK=FILE; empty if the option takes a folder.
        gap: The metric that is missing without the weights; the trunk is appended.
        canary: Whether it has a canary (`eval.metrics.canary`).
    """

    family: str
    help: str
    load: Callable[[str, str, bool], Any]
    trunks: tuple[str, ...] = ()
    gap: str = ""
    canary: bool = False


# Modules are imported only when a network is loaded, because torch and open_clip take seconds.
def _clip(place: str, device: str, prove: bool) -> ClipModel:
    from eval.metrics.clip import load_clip

    return load_clip(place, device, prove)


def _miniature(place: str, device: str, prove: bool) -> PerceptualMetric:
    from eval.metrics.perceptual import load_mini

    return load_mini(Path(place), device, prove)


def _lpips(place: str, device: str, prove: bool) -> PerceptualMetric:
    from eval.metrics.perceptual import load_lpips

    return load_lpips(*trunk_and_file("lpips", place), device)


def _contextual(place: str, device: str, prove: bool) -> ContextualMetric:
    from eval.metrics.contextual import load_vgg19

    _, file = trunk_and_file("contextual", place)
    return load_vgg19(file, device)


NETWORKS = {  # option of `score` -> network
    "clip": Network("clip", "open_clip folder or ARCHITECTURE=FILE; repeatable", _clip, gap="clip", canary=True),
    "perceptual": Network(
        "lpips", "folder of the miniature perceptual model; repeatable", _miniature, gap="lpips-mini", canary=True
    ),
    "lpips": Network(
        "lpips", "alex=FILE or vgg=FILE, torchvision's trunks; repeatable", _lpips, trunks=("alex", "vgg"), gap="lpips-"
    ),
    "contextual": Network(
        "contextual", "vgg19=FILE, torchvision's trunk; repeatable", _contextual, trunks=("vgg19",), gap="contextual-"
    ),
}


def trunk_and_file(option: str, place: str) -> tuple[str, Path]:
    """Return the trunk and the file that TRUNK=FILE names, for an option with trunks.

    Raises:
        InputError: It has another form, or the option has no such trunk.
    """
    trunk, equals, file = place.partition("=")
    trunks = NETWORKS[option].trunks
    if not equals or trunk not in trunks:
        raise InputError(f"--{option} must be {' or '.join(f'{name}=FILE' for name in trunks)}, got {place!r}")
    return trunk, Path(file)


def weights_kinds() -> set[str]:
    """Return the kinds of weights that `score` can load: OPTION, or OPTION-TRUNK if the option has trunks."""
    return {
        f"{option}-{trunk}" if trunk else option for option, network in NETWORKS.items() for trunk in network.trunks or ("",)
    }
