"""How often Python looks for unreachable objects: hardly while a command starts, as usual in a long loop, not when it ends."""

import gc

USUAL = gc.get_threshold()


def collect_rarely() -> None:
    """Let the garbage collector wait: imports make hundreds of thousands of objects that stay, and it costs a fifth of them."""
    gc.set_threshold(200_000)


def collect_as_usual() -> None:
    """Set Python's own thresholds again, before a loop whose garbage may hold tensors."""
    gc.set_threshold(*USUAL)


def collect_no_more() -> None:
    """Leave all objects to the end of the process, where Python would otherwise search them for garbage several times."""
    gc.freeze()
