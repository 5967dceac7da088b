"""All Triton kernels as machine code for an NVIDIA GPU that need not be there."""

from __future__ import annotations

import importlib

MARCHING, COMPOSITING = "magic123.render.marching_triton", "magic123.render.compositing_triton"
GRID = "magic123.fields.encoding_triton"
RAYS = "*fp32 *fp32 *fp32 *fp32 *fp32 *i64 *fp32 *fp32"
LAYOUT = "*fp32 *i32 *i32 *i32 *i32"
COMPOSITE = "*i64 *fp32 *fp32 *fp32 *fp32"
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
}  # fmt: skip


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
    options = {"enable_fp_fusion": False} if name in ("count steps", "write samples") else {}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options).asm
