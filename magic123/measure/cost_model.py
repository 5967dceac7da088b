"""Predict what a stage costs on a GPU, without one: memory, arithmetic, memory traffic, and from them times.

The networks of the priors run on the meta device, with full-size shapes and no values, and all operations are counted. The
field is counted by a formula, for the number of samples of an untrained scene. Not included are the launches of the scene's own
operations, the extraction and rasterisation of a surface, and memory that the allocator reserves in addition to live tensors.
So a step takes longer than predicted. Nothing here is measured on a GPU.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, NamedTuple, cast
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from magic123.fields.field import Field
from magic123.geometry.camera import Camera
from magic123.measure.benchmark import ball
from magic123.measure.random_weights import RANDOM, UNET, networks, random_text_to_image
from magic123.optimise.textual_inversion import RETRY_CHUNKS, splice_row
from magic123.priors.latent_diffusion import encode
from magic123.priors.precision import in_float32
from magic123.records.errors import InputError
from magic123.render import volume
from magic123.scenes.nerf import NeRF
from magic123.settings.inversion import InversionSettings
from magic123.settings.scenes import FieldSettings, NeRFSettings
from magic123.settings.stage import NeRFStage, OptimisedStage, Stage

VIEWS = (
    "view",
    "expand",
    "permute",
    "transpose",
    "slice",
    "select",
    "unsqueeze",
    "squeeze",
    "detach",
    "split",
    "reshape_alias",
)
RAYS = 16  # samples are counted along every RAYS-th ray


@dataclass(frozen=True)
class Card:
    """Specifications of a GPU.

    Attributes:
        half: operations per second of dense float16 matrix products with float32 accumulation.
        single: operations per second of float32 arithmetic, without TensorFloat-32.
        bandwidth: memory bandwidth in bytes per second.
    """

    half: float
    single: float
    bandwidth: float


CARDS = {
    "H100": Card(989e12, 67e12, 3.35e12),
    "H200": Card(989e12, 67e12, 4.8e12),
    "A100": Card(312e12, 19.5e12, 2.04e12),
    "RTX 4090": Card(165e12, 82.6e12, 1.01e12),
    "RTX 3090": Card(71e12, 35.6e12, 0.94e12),
    "L4": Card(121e12, 30.3e12, 0.3e12),
}
# Assumptions: the fraction of these specifications that large networks reach, and the host's seconds to launch an operation.
REACHED = {"half": 0.45, "single": 0.5, "bandwidth": 0.75}
LAUNCH = 6e-6


class Operation(NamedTuple):
    """An operation: floating-point operations, whether they are in half precision, and bytes read and written."""

    flop: float
    half: bool
    moved: float


class OperationCounter(TorchDispatchMode):
    """Counts the operations on meta tensors inside the context, and the memory of live tensors.

    Attributes:
        operations: the operations, in order.
        peak: largest number of bytes of tensors, created inside the context, that were alive at the same time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self.alive = self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Run an operation and count it."""
        made = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(made) if isinstance(leaf, Tensor)]
        name = func._schema.name.removeprefix("aten::").lstrip("_")
        if not tensors or name in VIEWS or name in ("t", "alias", "as_strided", "unbind", "unsafe_view"):
            return made
        for tensor in tensors:
            self._note(tensor)
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        formula = flop_registry.get(func._overloadpacket)
        flop = formula(*args, **(kwargs or {}), out_val=made) if formula else 0
        half = any(tensor.dtype in (torch.float16, torch.bfloat16) for tensor in given)
        self.operations.append(Operation(flop, half, sum(tensor.nbytes for tensor in (*given, *tensors))))
        return made

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known and self._known[key]() is not None:
            return

        def gone(_: object) -> None:
            self.alive -= size
            self._known.pop(key, None)

        self._known[key] = weakref.ref(storage, gone)
        self.alive += size
        self.peak = max(self.peak, self.alive)


def _attention(q: Tensor, k: Tensor, v: Tensor, *rest: Any, scale: float | None = None, **options: Any) -> Tensor:
    """Compute attention with the kernel that is used on CUDA; on the meta device torch materialises the attention matrix."""
    if q.dtype != torch.float32 and q.shape[-1] <= 256:
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, False, False, scale=scale)[0]
    wants = torch.is_grad_enabled() and q.requires_grad
    return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, wants, 0.0, False, scale=scale)[0]


@contextmanager
def counting() -> Iterator[OperationCounter]:
    """Count the operations on the meta device inside the context."""
    with mock.patch.object(F, "scaled_dot_product_attention", _attention), OperationCounter() as counter:
        yield counter


@dataclass(frozen=True)
class Part:
    """A part of a step: its operations, and its peak memory in bytes without weights."""

    operations: list[Operation]
    peak: float

    def seconds(self, card: Card) -> float:
        """Return the predicted time on a GPU: that of the device, or of the host to launch the operations if it is longer."""
        device = 0.0
        for flop, half, moved in self.operations:
            rate = card.half * REACHED["half"] if half else card.single * REACHED["single"]
            device += max(flop / rate, moved / (card.bandwidth * REACHED["bandwidth"]))
        return max(device, LAUNCH * len(self.operations))


@cache
def prior_parts(kind: str, dtype: str) -> tuple[dict[str, Part], dict[str, int]]:
    """Return the cost of a prior at a novel view, by part, and the bytes of the weights of its networks.

    Args:
        kind: kind of the prior.
        dtype: precision of the networks, a key of DTYPES; with "autocast" the weights are in float32, and cast at each use.
    """
    half = {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(dtype, torch.float16)
    with torch.device("meta"):
        vae, unet = (network.requires_grad_(False).to(half) for network in networks(kind, "full"))
        side, latent = vae.config.sample_size, unet.config.sample_size
        pixels = torch.empty(1, side, side, 3, requires_grad=True)
        latents = torch.empty(2, RANDOM[kind].channels, latent, latent, dtype=half)
        context = torch.empty(2, RANDOM[kind].tokens, UNET["full"]["cross_attention_dim"], dtype=half)
        with counting() as encoding:
            encode(vae, pixels, side).sum().backward()
        with counting() as predicting, torch.no_grad():
            unet(latents, torch.zeros(2, dtype=torch.int64), encoder_hidden_states=context)
    parts, weights = {}, {}
    for name, network, counter in (("encode", vae, encoding), ("noise", unet, predicting)):
        operations, numbers = counter.operations, [parameter.numel() for parameter in network.parameters()]
        if dtype == "autocast":
            operations = operations + [Operation(0.0, True, 6.0 * count) for count in numbers]
        parts[name] = Part(operations, counter.peak)
        weights[name] = sum(numbers) * (4 if dtype in ("float32", "autocast") else 2)
    return parts, weights


@lru_cache(maxsize=1)
def _untrained(field: FieldSettings, nerf: NeRFSettings) -> NeRF:
    """Return an untrained scene after the first update of its occupancy grid."""
    torch.manual_seed(0)
    scene = NeRF(field, nerf)
    scene.before_step(0, 1, torch.Generator().manual_seed(0))
    return scene


@cache
def sample_counts(field: FieldSettings, nerf: NeRFSettings, size: int) -> tuple[int, int]:
    """Return the numbers of samples of an untrained scene in one picture: evaluated without gradient, and kept.

    Args:
        field: settings of the field.
        nerf: settings of ray marching and of the occupancy grid.
        size: side of the picture in pixels.
    """
    scene = _untrained(field, nerf)
    evaluated, occupancy = [0], scene.occupancy

    def density(x: Tensor) -> Tensor:
        evaluated[0] += len(x)
        return scene.field.density(x)

    origins, directions = (rays.reshape(-1, 3)[::RAYS] for rays in Camera.orbit(90.0, 0.0, 1.8, 40.0, size).rays())
    with torch.no_grad():
        marched = volume.march(
            origins, directions, occupied=occupancy.occupied, max_samples=nerf.max_samples, box=occupancy.box
        )
        kept = volume.visible(marched, density, len(origins))
    return RAYS * evaluated[0], RAYS * len(kept.ray)


def field_part(stage: Any, without_gradient: int, kept: int, evaluations: int) -> Part:
    """Return the cost of a field by a formula: the rows of the hash grid and the MLP.

    Args:
        stage: settings of the stage.
        without_gradient: number of points that are evaluated without gradient.
        kept: number of points that are evaluated with gradient.
        evaluations: number of evaluations of the field for each of the latter; normals by finite differences take six more.
    """
    grid, hidden, layers = stage.field.grid, stage.field.hidden, stage.field.layers
    width = grid.levels * grid.features
    network = width * hidden + (layers - 1) * hidden**2 + 4 * hidden
    rows = grid.levels * 8 * grid.features * 4
    activations = 4 * (width + layers * hidden + 4)
    with_gradient = kept * evaluations
    operations = [
        Operation(2.0 * network * without_gradient, False, float(rows + 2 * activations) * without_gradient),
        Operation(6.0 * network * with_gradient, False, float(3 * rows + 6 * activations) * with_gradient),
    ]
    alive = kept if kept <= volume.AT_ONCE else volume.CHUNK
    return Part(operations, float(2 * activations) * alive * evaluations)


def _peak_of(priors: dict[str, tuple[dict[str, Part], dict[str, int]]]) -> float:
    """Return the peak memory of priors in bytes, without weights: that of all encoders and of the largest UNet.

    The activations of all encoders are kept until the end of the step; UNets run one after the other.
    """
    costs = [parts for parts, _ in priors.values()]
    return sum(parts["encode"].peak for parts in costs) + max((parts["noise"].peak for parts in costs), default=0.0)


def predict(stage: Stage) -> dict[str, Any]:
    """Predict the cost of a stage at full size, as plain data.

    Args:
        stage: settings of the stage; its priors must be of kinds that exist with random weights.

    Raises:
        InputError: the stage is not optimised, or has a prior of another kind.
    """
    if not isinstance(stage, OptimisedStage) or not hasattr(stage, "field"):
        raise InputError(f"a {stage.scene} scene has no field to optimise, so there is nothing to predict")
    priors: dict[str, tuple[dict[str, Part], dict[str, int]]] = {}
    repeated: dict[str, tuple[dict[str, Part], dict[str, int]]] = {}
    for name, settings in stage.priors.items():
        if settings.weight:
            if settings.kind not in RANDOM:
                raise InputError(f"{settings.kind} cannot be measured with random weights; choose a stage without it")
            priors[name] = prior_parts(settings.kind, settings.dtype)
            if settings.dtype != "float32":
                repeated[name] = prior_parts(settings.kind, "float32")
    parts = {f"{name} {part}": cost for name, (costs, _) in priors.items() for part, cost in costs.items()}
    sizes = {"reference view": round(stage.resolution * stage.reference_scale), "novel view": stage.resolution}
    covered = float(ball(64).require("alpha").mean())
    fields = {}
    for view, size in sizes.items():
        if isinstance(stage, NeRFStage):
            fields[view] = field_part(stage, *sample_counts(stage.field, stage.nerf, size), evaluations=7)
        else:
            fields[view] = field_part(stage, 0, round(covered * size**2), evaluations=1)
    with torch.device("meta"):
        numbers = sum(parameter.numel() for parameter in Field(stage.field).parameters())
    optimiser = Part([Operation(0.0, False, 28.0 * numbers)], 0.0)
    views: dict[str, dict[str, Part]] = {
        "reference view": {"field": fields["reference view"], "optimiser": optimiser},
        "novel view": {"field": fields["novel view"], "optimiser": optimiser} | parts,
    }
    held = float(sum(sum(weights.values()) for _, weights in priors.values()) + 16 * numbers)
    peak = {
        "reference view": held + fields["reference view"].peak,
        "novel view": held + fields["novel view"].peak + _peak_of(priors),
    }
    for name, (costs, weights) in repeated.items():
        # the autoencoder is in float32 for the whole step, the UNet only while it runs
        more = {part: weights[part] - priors[name][1][part] for part in weights}
        as_repeated = {"encode": costs["encode"], "noise": Part([], costs["noise"].peak + more["noise"])}
        repeating = held + fields["novel view"].peak + more["encode"] + _peak_of(priors | {name: (as_repeated, weights)})
        peak["repeated in float32"] = max(repeating, peak.get("repeated in float32", 0.0))
    interval = stage.reference_interval
    known = stage.reference_warmup + ((stage.steps - stage.reference_warmup) // interval if interval else 0)
    return _summary(views, {"reference view": known, "novel view": stage.steps - known}, held, peak)


def predict_inversion(settings: InversionSettings) -> dict[str, Any]:
    """Predict the cost of textual inversion at full size, as plain data.

    The augmentations, the comparison at the end and the few operations of the optimiser are not included.

    Args:
        settings: settings of textual inversion.
    """
    with torch.device("meta"):
        model = random_text_to_image("full", dtype=settings.dtype, device="meta")
        side, latent = settings.resolution or model.resolution, model.unet.config.sample_size
        latent = latent * side // model.resolution
        table = cast(Any, model.text_encoder).get_input_embeddings().weight
        row = torch.nn.Parameter(torch.empty(table.shape[1]))
        handle = splice_row(model.text_encoder, len(table) - 1, row)
        chunk = min(settings.chunk or settings.batch, settings.batch)

        def denoise(count: int) -> OperationCounter:
            with counting() as counter:
                latents, noise = (torch.empty(count, 4, latent, latent) for _ in range(2))
                t, ids = torch.zeros(count, dtype=torch.int64), torch.zeros(count, 77, dtype=torch.int64)
                model.denoising_loss(latents, noise, t, ids).sum().backward()
            return counter

        denoising = denoise(chunk)
        with counting() as encoding, torch.no_grad():
            encode(model.vae, torch.empty(min(settings.batch, 32), side, side, 3), side)
    held = sum(
        parameter.nbytes for network in (model.vae, model.unet, model.text_encoder) for parameter in network.parameters()
    )
    parts = {"text encoder and UNet": Part(denoising.operations * math.ceil(settings.batch / chunk), denoising.peak)}
    if not settings.cached_latents:
        parts["VAE"] = Part(encoding.operations * math.ceil(settings.batch / 32), encoding.peak)
    peak = {"step": held + max(part.peak for part in parts.values())}
    if settings.dtype != "float32":
        # only the UNet is converted to float32, and fewer pictures are processed at a time
        before = sum(parameter.nbytes for parameter in model.unet.parameters())
        with torch.device("meta"), in_float32([model.unet]):
            more = sum(parameter.nbytes for parameter in model.unet.parameters()) - before
            peak["repeated in float32"] = held + more + denoise(max(1, chunk // RETRY_CHUNKS)).peak
    handle.remove()
    return _summary({"step": parts}, {"step": settings.steps}, held, peak)


def _summary(views: dict[str, dict[str, Part]], steps: dict[str, int], held: float, peak: dict[str, float]) -> dict[str, Any]:
    """Return a prediction as plain data.

    Args:
        views: kind of step -> its parts.
        steps: kind of step -> number of steps.
        held: bytes of weights and of the optimiser's state.
        peak: kind of step, or "repeated in float32" -> peak memory in bytes.
    """
    seconds = {
        name: {view: {part: cost.seconds(card) for part, cost in costs.items()} for view, costs in views.items()}
        for name, card in CARDS.items()
    }
    return {
        "weights_and_state_bytes": held,
        "peak_bytes": peak,
        "tflop": {
            view: {
                kind: sum(o.flop for cost in costs.values() for o in cost.operations if o.half == (kind == "half")) / 1e12
                for kind in ("half", "single")
            }
            for view, costs in views.items()
        },
        "operations": {view: sum(len(cost.operations) for cost in costs.values()) for view, costs in views.items()},
        "moved_bytes": {
            view: sum(o.moved for cost in costs.values() for o in cost.operations) for view, costs in views.items()
        },
        "seconds": seconds,
        "stage_minutes": {
            name: sum(count * sum(by[view].values()) for view, count in steps.items()) / 60 for name, by in seconds.items()
        },
    }


def table(predicted: dict[str, Any], title: str) -> str:
    """Return a prediction as Markdown.

    Args:
        predicted: result of `predict` or `predict_inversion`.
        title: title of the table.
    """
    again = predicted["peak_bytes"].get("repeated in float32")
    views = list(predicted["operations"])
    lines = [f"# {title}: predicted, not measured", "", f"| | {' | '.join(views)} |", "|---" * (len(views) + 1) + "|"]
    rows: dict[str, Callable[[str], str]] = {
        "peak memory": lambda view: f"{predicted['peak_bytes'][view] / 2**30:.1f} GiB",
        "TFLOP, half / single": lambda view: (
            f"{predicted['tflop'][view]['half']:.2f} / {predicted['tflop'][view]['single']:.2f}"
        ),
        "operations of the networks": lambda view: f"{predicted['operations'][view]}",
        "bytes moved": lambda view: f"{predicted['moved_bytes'][view] / 1e9:.1f} GB",
    }
    lines += [f"| {name} | {' | '.join(value(view) for view in views)} |" for name, value in rows.items()]
    if again is not None:
        lines.append(f"| peak of a step repeated in float32 {'| ' * len(views)}{again / 2**30:.1f} GiB |")
    lines += ["", f"| card | {' | '.join(views)} | dominated by | stage |", "|---" * (len(views) + 3) + "|"]
    for name, by in predicted["seconds"].items():
        times = " | ".join(f"{sum(by[view].values()) * 1e3:.0f} ms" for view in views)
        most = max(by[views[-1]], key=by[views[-1]].__getitem__)
        lines.append(f"| {name} | {times} | {most} | {predicted['stage_minutes'][name]:.1f} minutes |")
    lines += ["", f"Weights and the optimiser's state: {predicted['weights_and_state_bytes'] / 2**30:.1f} GiB. Not included: "]
    lines[-1] += "the extraction and rasterisation of a surface, augmentations, "
    lines[-1] += "and memory that the allocator reserves in addition to live tensors."
    return "\n".join(lines) + "\n"
