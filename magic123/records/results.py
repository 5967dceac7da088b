"""The path of a result, and the stage that it starts from."""

from __future__ import annotations


def stage_path(dataset: str, example: str, method: str, seed: int | str, stage: str) -> str:
    """Return the path of a stage of a reconstruction, relative to results/, logs/ and benchmarks/."""
    return f"{dataset}/{example}/{method}/seed{seed}/{stage}"


def start_of(method: str, init: str) -> tuple[str, str]:
    """Return the stage that another stage starts from.

    Args:
        method: Method of the stage.
        init: Its setting `init`: STAGE of the same method, or METHOD/STAGE.

    Returns:
        The method and the name of the stage to start from.
    """
    other, _, stage = init.rpartition("/")
    return other or method, stage
