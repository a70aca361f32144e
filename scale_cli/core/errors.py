"""The error type for mistakes in a user's request."""


class RequestError(ValueError):
    """A mistake in the request. The message is one line: what was given, what is allowed, what to do.

    The command line prints only the message and exits with 2. Every other exception is a bug of this package and keeps
    its traceback.
    """
