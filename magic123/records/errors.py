"""The exceptions that a user can act on, and the status that a result gets for each."""

FETCH = "put it there (config/weights.yaml says where it comes from) and score again"


class InputError(Exception):
    """Bad input: the message is one sentence that says what is wrong, where, and what to do."""

    status = "failed"


class NonFinite(InputError):
    """The optimisation has left the finite numbers."""

    status = "non-finite"


class OutOfMemory(InputError):
    """Memory ran out, on every rung of the stage's ladder."""

    status = "out of memory"


class MetricGap(Exception):
    """A metric cannot be computed here, for example because its weights are absent. Recorded by name, never replaced."""


class Stopped(Exception):
    """A signal asked the process to leave, and what it had done is saved."""

    status = "stopped"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python's, the CUDA allocator's or the CPU allocator's way of saying so."""
    if isinstance(error, MemoryError | OutOfMemory) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in ("out of memory", "can't allocate memory"))


def first_line(error: BaseException) -> str:
    """Return the type and the first line of the message of another library's exception, to quote it in a sentence."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
