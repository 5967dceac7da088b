"""Compile all Triton kernels to machine code for NVIDIA GPUs, without a GPU."""

from __future__ import annotations

import importlib

MARCHING, COMPOSITING = "magic123.render.marching_triton", "magic123.render.compositing_triton"
GRID, RASTER = "magic123.fields.encoding_triton", "magic123.render.raster_triton"
RAYS = "*fp32 *fp32 *fp32 *fp32 *fp32 *i64 *fp32 *fp32"
LAYOUT = "*fp32 *i32 *i32 *i32 *i32"
COMPOSITE = "*i64 *fp32 *fp32 *fp32 *fp32"
FACES, EDGES = "*fp64 *fp64 *fp64 *i64", "*fp64 *fp64 *fp64 *i64 *i64"
# the types of a kernel's arguments, in order; its constants; options
KERNELS = {
    "count steps": (MARCHING, "_count_steps", f"{RAYS} *i8 *i8 *i64 i32", {"RESOLUTION": 128, "BLOCK": 128}),
    "write samples": (MARCHING, "_write_samples", f"{RAYS} *i8 *i64 *i64 *fp32 *fp32 *fp32 i32 i32", {"BLOCK": 128}),
    "visible": (MARCHING, "_accumulate", "*i64 *i64 *fp32 *fp32 *fp64 *i64 i32", {"BLOCK": 128}),
    "composite": (COMPOSITING, "_forward", f"{COMPOSITE} *fp32 *fp32 *fp32", {"COLUMNS": 8, "BLOCK": 128}),
    "composite, no normals": (COMPOSITING, "_forward", f"{COMPOSITE} *fp32 *fp32 *fp32", {"COLUMNS": 5, "BLOCK": 128}),
    "composite, backward": (
        COMPOSITING, "_backward", f"{COMPOSITE} *fp32 *fp32 *fp32 *fp32 *fp32", {"COLUMNS": 8, "BLOCK": 128},
    ),
    "hash grid": (GRID, "_forward", f"*fp32 *fp32 {LAYOUT} *fp32 i32 i32", {"FEATURES": 2, "BLOCK": 256}),
    "hash grid, table": (GRID, "_backward_table", f"*fp32 *fp32 {LAYOUT} *fp32 i32 i32", {"FEATURES": 2, "BLOCK": 256}),
    "hash grid, position": (
        GRID, "_backward_position", f"*fp32 *fp32 *fp32 {LAYOUT} *fp32 i32 i32", {"ACTIVE": 16, "FEATURES": 2, "BLOCK": 256},
    ),
    "faces, tiles": (RASTER, "_count_tiles", f"{FACES} *i64 *i64 i32 i32 i32 i32 i32", {"BLOCK": 128}),
    "edges, lines": (RASTER, "_count_lines", f"{EDGES} *i64 *i64 i32 i32 i32 i32 i32", {"BLOCK": 128}),
}  # fmt: skip
for turn, winner in (("nearest", False), ("first", True)):
    constants = {"WINNER": winner, "ITEMS": 32}
    KERNELS[f"faces, {turn}"] = (RASTER, "_rasterize_faces", f"{FACES} *i64 *i64 *i32 i32 i32 i32 i32 i32 i32", constants)
    types = f"{EDGES} *i64 *i32 *fp64 *i64 *i32 i32 i32 i32 i32 i32 i32 i32"
    KERNELS[f"edges, {turn}"] = (RASTER, "_select_edges", types, constants)
# kernels that agree with the CPU to the bit: without fused multiply-add
EXACT = {name for name, kernel in KERNELS.items() if name in ("count steps", "write samples") or kernel[0] == RASTER}


def compile_kernel(name: str, capability: int = 90) -> dict:
    """A kernel of KERNELS for a compute capability, ten times that (75, 80, 90): {"ptx": text, "cubin": binary, ...}."""
    import triton
    from triton.backends.compiler import GPUTarget

    module, kernel, types, constants = KERNELS[name]
    kernel = getattr(importlib.import_module(module), kernel)
    plain = [argument for argument in kernel.arg_names if argument not in constants]
    signature = dict(zip(plain, types.split(), strict=True)) | dict.fromkeys(constants, "constexpr")
    places = {(kernel.arg_names.index(constant),): value for constant, value in constants.items()}
    source = triton.compiler.ASTSource(kernel, signature, places)
    options = {"enable_fp_fusion": False} if name in EXACT else {}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options).asm
