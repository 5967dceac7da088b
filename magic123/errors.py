"""The error a user can mend."""


class InputError(Exception):
    """Bad input: the message is one sentence that says what is wrong, where, and what to do."""
