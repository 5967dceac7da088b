"""How often Python looks for unreachable objects: rarely while libraries are imported, as usual in a long loop."""

import gc

USUAL = gc.get_threshold()


def collect_rarely() -> None:
    """Let the garbage collector wait: imports make hundreds of thousands of objects that stay, and it costs a fifth of them."""
    gc.set_threshold(20_000)


def collect_as_usual() -> None:
    """Set Python's own thresholds again, before a loop whose garbage may hold tensors."""
    gc.set_threshold(*USUAL)
