"""The errors a user can mend, and the word that a result's status has for each."""


class InputError(Exception):
    """Bad input: the message is one sentence that says what is wrong, where, and what to do."""

    status = "failed"


class NonFinite(InputError):
    """The optimisation has left the finite numbers."""

    status = "non-finite"


class OutOfMemory(InputError):
    """Memory ran out, on every rung of the stage's ladder."""

    status = "out of memory"


class Stopped(Exception):
    """A signal asked the process to leave, and what it had done is saved."""

    status = "stopped"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python's, the CUDA allocator's or the CPU allocator's way of saying so."""
    if isinstance(error, MemoryError | OutOfMemory) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in ("out of memory", "can't allocate memory"))
