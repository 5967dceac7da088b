"""How often Python's garbage collector runs: rarely while a command starts, as usual in long loops, not at exit."""

import gc

USUAL = gc.get_threshold()


def collect_rarely() -> None:
    """Collect rarely: imports create hundreds of thousands of objects that stay, and collecting adds a fifth to their time."""
    gc.set_threshold(200_000)


def collect_as_usual() -> None:
    """Restore Python's own thresholds, before a loop whose garbage may hold tensors."""
    gc.set_threshold(*USUAL)


def collect_no_more() -> None:
    """Exempt all objects from collection before the process exits; Python would otherwise search them several times."""
    gc.freeze()
