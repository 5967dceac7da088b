"""Exceptions that a user can act on, with the status that a result gets for each."""

FETCH = "put it there (config/weights.yaml says where it comes from) and score again"


class InputError(Exception):
    """Bad input. The message is one sentence: what is wrong, where, and what to do."""

    status = "failed"


class NonFinite(InputError):
    """A value of the optimisation is not finite.

    Attributes:
        priors: names of the priors that gave it; empty where that is not known.
    """

    status = "non-finite"

    def __init__(self, message: str, priors: tuple[str, ...] = ()):
        super().__init__(message)
        self.priors = priors


class OutOfMemory(InputError):
    """Memory ran out, on every rung of the stage's ladder."""

    status = "out of memory"


class MetricGap(Exception):
    """A metric cannot be computed here, for example because its weights are missing. It is recorded, and never replaced."""


class Stopped(Exception):
    """A signal asked the process to stop, and its progress is saved."""

    status = "stopped"


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out, as Python, the CUDA allocator and the CPU allocator of torch report it."""
    if isinstance(error, MemoryError | OutOfMemory) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in ("out of memory", "can't allocate memory"))


def first_line(error: BaseException) -> str:
    """Return the type and the first line of the message of another library's exception, to quote it in a sentence."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
