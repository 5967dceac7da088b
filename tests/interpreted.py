"""Triton kernels in Triton's interpreter, which needs no GPU."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from unittest import mock

MAGIC123 = Path(__file__).resolve().parent.parent / "magic123"


def interpreted(module: str, *shared: str):
    """A second copy of a module of kernels, such as "fields/encoding_triton", whose kernels run on CPU tensors.

    shared: modules whose kernels it imports, which must be copies too. Whether a kernel is interpreted is settled when it is
    defined, so the product's own copy stays as it is.
    """
    import triton

    name = f"interpreted_{Path(module).name}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, MAGIC123 / f"{module}.py")
        loaded = importlib.util.module_from_spec(spec)
        copies = {f"magic123.{one.replace('/', '.')}": interpreted(one) for one in shared}
        before, triton.knobs.runtime.interpret = triton.knobs.runtime.interpret, True
        try:
            with mock.patch.dict(sys.modules, copies):
                spec.loader.exec_module(loaded)
        finally:
            triton.knobs.runtime.interpret = before
        sys.modules[name] = loaded
    return sys.modules[name]
