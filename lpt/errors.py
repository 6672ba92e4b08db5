"""The one exception that is the user's to mend."""


class UserError(ValueError):
    """A mistake of the user's, told in one readable message; the command line prints it and exits with 2.

    The message says what was got, what is valid, and what to do next.
    """


class SweepFailed(Exception):
    """Some jobs of a sweep failed and have said why; `code` is the exit code of the whole."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code
