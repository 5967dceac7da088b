"""What a stage costs on a GPU, counted without one: memory, arithmetic, operations, and from them predicted times.

The networks of the priors run on the meta device, with full-size shapes and no values; every operation on the way is counted.
The field is counted by its formula at the samples that an untrained scene has. Left out are the launches of the scene's own
operations, the extraction and rasterisation of a surface, and what the allocator reserves beyond what is alive. So a step takes
longer than predicted, and nothing here is measured on a card.
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
RAYS = 16  # every RAYS-th ray is marched to count samples


@dataclass(frozen=True)
class Card:
    """A card by its maker's figures.

    Attributes:
        half: operations per second of dense float16 matrix products with float32 sums.
        single: of float32 arithmetic, without TensorFloat-32.
        bandwidth: of its memory, bytes per second.
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
# Assumptions: what large networks reach of these figures in practice, and the host's time to launch one operation.
REACHED = {"half": 0.45, "single": 0.5, "bandwidth": 0.75}
LAUNCH = 6e-6


class Operation(NamedTuple):
    """One operation: its arithmetic, whether that is in half precision, and the bytes that it reads and writes."""

    flop: float
    half: bool
    moved: float


class Tally(TorchDispatchMode):
    """Counts the operations on meta tensors inside the context, and the bytes alive.

    Attributes:
        operations: in their order.
        peak: largest number of bytes of the tensors made inside that were alive at a time.
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
    """Compute attention by the kernel that CUDA would choose; the meta device would make the whole matrix."""
    if q.dtype != torch.float32 and q.shape[-1] <= 256:
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, False, False, scale=scale)[0]
    wants = torch.is_grad_enabled() and q.requires_grad
    return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, wants, 0.0, False, scale=scale)[0]


@contextmanager
def counting() -> Iterator[Tally]:
    """Count what is run inside the context on the meta device."""
    with mock.patch.object(F, "scaled_dot_product_attention", _attention), Tally() as tally:
        yield tally


@dataclass(frozen=True)
class Part:
    """A part of a step: its operations, and the bytes that are alive at its peak beside all weights."""

    operations: list[Operation]
    peak: float

    def seconds(self, card: Card) -> float:
        """Return the predicted time on a card: the device's, or the host's to launch it, whichever is longer."""
        device = 0.0
        for flop, half, moved in self.operations:
            rate = card.half * REACHED["half"] if half else card.single * REACHED["single"]
            device += max(flop / rate, moved / (card.bandwidth * REACHED["bandwidth"]))
        return max(device, LAUNCH * len(self.operations))


@cache
def prior_parts(kind: str, dtype: str) -> tuple[dict[str, Part], dict[str, int]]:
    """Return the parts of asking one prior at a novel view, and the bytes of its networks' weights.

    Args:
        kind: of the prior.
        dtype: a key of DTYPES. autocast: float32 weights, which each use casts.
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
    for name, network, tally in (("encode", vae, encoding), ("noise", unet, predicting)):
        operations, numbers = tally.operations, [parameter.numel() for parameter in network.parameters()]
        if dtype == "autocast":
            operations = operations + [Operation(0.0, True, 6.0 * count) for count in numbers]
        parts[name] = Part(operations, tally.peak)
        weights[name] = sum(numbers) * (4 if dtype in ("float32", "autocast") else 2)
    return parts, weights


@lru_cache(maxsize=1)
def _untrained(field: FieldSettings, nerf: NeRFSettings) -> NeRF:
    """Return a scene before its first step, whose occupied cells are found."""
    torch.manual_seed(0)
    scene = NeRF(field, nerf)
    scene.before_step(0, 1, torch.Generator().manual_seed(0))
    return scene


@cache
def sample_counts(field: FieldSettings, nerf: NeRFSettings, size: int) -> tuple[int, int]:
    """Return how many samples an untrained scene evaluates without gradient, and how many it keeps, in one picture.

    Args:
        field: its settings.
        nerf: its settings.
        size: side of the picture in pixels.
    """
    scene = _untrained(field, nerf)
    looked, occupancy = [0], scene.occupancy

    def density(x: Tensor) -> Tensor:
        looked[0] += len(x)
        return scene.field.density(x)

    origins, directions = (rays.reshape(-1, 3)[::RAYS] for rays in Camera.orbit(90.0, 0.0, 1.8, 40.0, size).rays())
    with torch.no_grad():
        marched = volume.march(
            origins, directions, occupied=occupancy.occupied, max_samples=nerf.max_samples, box=occupancy.box
        )
        kept = volume.visible(marched, density, len(origins))
    return RAYS * looked[0], RAYS * len(kept.ray)


def field_part(stage: Any, looked: int, kept: int, evaluations: int) -> Part:
    """Return the cost of a field, by its formula: the grid's rows and the small network.

    Args:
        stage: its settings.
        looked: points evaluated without gradient.
        kept: points evaluated with it.
        evaluations: of the field at each of these; normals by finite differences take six more.
    """
    grid, hidden, layers = stage.field.grid, stage.field.hidden, stage.field.layers
    width = grid.levels * grid.features
    network = width * hidden + (layers - 1) * hidden**2 + 4 * hidden
    rows = grid.levels * 8 * grid.features * 4
    activations = 4 * (width + layers * hidden + 4)
    with_gradient = kept * evaluations
    operations = [
        Operation(2.0 * network * looked, False, float(rows + 2 * activations) * looked),
        Operation(6.0 * network * with_gradient, False, float(3 * rows + 6 * activations) * with_gradient),
    ]
    alive = kept if kept <= volume.AT_ONCE else volume.CHUNK
    return Part(operations, float(2 * activations) * alive * evaluations)


def _peak_of(asked: dict[str, tuple[dict[str, Part], dict[str, int]]]) -> float:
    """Return the bytes beside the weights while priors are asked: all encoders' until the end, one UNet's at a time."""
    costs = [parts for parts, _ in asked.values()]
    return sum(parts["encode"].peak for parts in costs) + max((parts["noise"].peak for parts in costs), default=0.0)


def predict(stage: Stage) -> dict[str, Any]:
    """Return the ledger of a stage at full size, as plain data.

    Args:
        stage: its settings; priors must be of kinds that can be measured with random weights.

    Raises:
        InputError: the stage is not optimised, or one of its priors cannot be measured.
    """
    if not isinstance(stage, OptimisedStage) or not hasattr(stage, "field"):
        raise InputError(f"a {stage.scene} scene has no field to optimise, so there is nothing to predict")
    asked: dict[str, tuple[dict[str, Part], dict[str, int]]] = {}
    repeated: dict[str, tuple[dict[str, Part], dict[str, int]]] = {}
    for name, settings in stage.priors.items():
        if settings.weight:
            if settings.kind not in RANDOM:
                raise InputError(f"{settings.kind} cannot be measured with random weights; choose a stage without it")
            asked[name] = prior_parts(settings.kind, settings.dtype)
            if settings.dtype != "float32":
                repeated[name] = prior_parts(settings.kind, "float32")
    parts = {f"{name} {part}": cost for name, (costs, _) in asked.items() for part, cost in costs.items()}
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
    held = float(sum(sum(weights.values()) for _, weights in asked.values()) + 16 * numbers)
    peak = {
        "reference view": held + fields["reference view"].peak,
        "novel view": held + fields["novel view"].peak + _peak_of(asked),
    }
    for name, (costs, weights) in repeated.items():
        # the autoencoder is in float32 for the whole step, the UNet while it predicts
        more = {part: weights[part] - asked[name][1][part] for part in weights}
        as_repeated = {"encode": costs["encode"], "noise": Part([], costs["noise"].peak + more["noise"])}
        repeating = held + fields["novel view"].peak + more["encode"] + _peak_of(asked | {name: (as_repeated, weights)})
        peak["repeated in float32"] = max(repeating, peak.get("repeated in float32", 0.0))
    interval = stage.reference_interval
    known = stage.reference_warmup + ((stage.steps - stage.reference_warmup) // interval if interval else 0)
    return _summary(views, {"reference view": known, "novel view": stage.steps - known}, held, peak)


def predict_inversion(settings: InversionSettings) -> dict[str, Any]:
    """Return the ledger of textual inversion at full size, as plain data.

    Left out are the augmentations, the comparison at the end and the few operations of the optimiser.

    Args:
        settings: the settings.
    """
    with torch.device("meta"):
        model = random_text_to_image("full", dtype=settings.dtype, device="meta")
        side, latent = settings.resolution or model.resolution, model.unet.config.sample_size
        latent = latent * side // model.resolution
        table = cast(Any, model.text_encoder).get_input_embeddings().weight
        row = torch.nn.Parameter(torch.empty(table.shape[1]))
        handle = splice_row(model.text_encoder, len(table) - 1, row)
        chunk = min(settings.chunk or settings.batch, settings.batch)

        def denoise(count: int) -> Tally:
            with counting() as tally:
                latents, noise = (torch.empty(count, 4, latent, latent) for _ in range(2))
                t, ids = torch.zeros(count, dtype=torch.int64), torch.zeros(count, 77, dtype=torch.int64)
                model.denoising_loss(latents, noise, t, ids).sum().backward()
            return tally

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
        # the UNet alone is converted, and fewer pictures are processed at a time
        before = sum(parameter.nbytes for parameter in model.unet.parameters())
        with torch.device("meta"), in_float32([model.unet]):
            more = sum(parameter.nbytes for parameter in model.unet.parameters()) - before
            peak["repeated in float32"] = held + more + denoise(max(1, chunk // RETRY_CHUNKS)).peak
    handle.remove()
    return _summary({"step": parts}, {"step": settings.steps}, held, peak)


def _summary(views: dict[str, dict[str, Part]], steps: dict[str, int], held: float, peak: dict[str, float]) -> dict[str, Any]:
    """Return a ledger as plain data.

    Args:
        views: the kinds of steps, with their parts.
        steps: how often each kind is run.
        held: bytes of weights and state.
        peak: the largest number of bytes alive, by kind of step and of what repeats one.
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
    """Return a ledger as Markdown.

    Args:
        predicted: of `predict`.
        title: of the table.
    """
    again = predicted["peak_bytes"].get("repeated in float32")
    views = list(predicted["operations"])
    lines = [f"# {title}: predicted, not measured", "", f"| | {' | '.join(views)} |", "|---" * (len(views) + 1) + "|"]
    rows: dict[str, Callable[[str], str]] = {
        "peak alive": lambda view: f"{predicted['peak_bytes'][view] / 2**30:.1f} GiB",
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
    lines += ["", f"Weights and the optimiser's state: {predicted['weights_and_state_bytes'] / 2**30:.1f} GiB. Left out: "]
    lines[-1] += "the extraction and rasterisation of a surface, augmentations, "
    lines[-1] += "and memory that the allocator reserves beyond what is alive."
    return "\n".join(lines) + "\n"
