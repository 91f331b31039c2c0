"""The errors that a user may meet, each with the exit code of the `magistral` command."""


class MagistralError(Exception):
    """A failure that is explained to the user in one line, without a traceback."""

    exit_code = 1


class InputError(MagistralError):
    """Bad input: the message says what is wrong, where (file and line, or field), and how to mend it."""

    exit_code = 2


class InfrastructureError(MagistralError):
    """A service or a process broke, which says nothing about the input or about a completion."""

    exit_code = 3
