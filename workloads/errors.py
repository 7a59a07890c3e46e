"""The one kind of error that a user can cause: bad input."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line that names the file, line or field and says what was expected. The
    command line prints it as it stands and exits with status 2.
    """
