"""The error raised for input a person can mend: a setting, a path, a checkpoint, a feature file."""


class UserError(Exception):
    """Something the user gave cannot be used.

    The message is one paragraph for a person: what is wrong, where, what was expected and what to do. `main`
    prints it and exits with status 1.
    """
