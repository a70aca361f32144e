"""The one error a user can mend: a mistake in what was asked."""


class RequestError(ValueError):
    """A mistake in what was asked: what was given, what is allowed, what to do, in one line.

    The command line prints the message alone and exits with 2. Every other exception is ours to mend and keeps its
    traceback.
    """
