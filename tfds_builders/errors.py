"""The error a builder raises for anything wrong with a release on disk."""


class DatasetError(Exception):
    """A dataset is missing, incomplete or malformed.

    The message is one paragraph for a person: what is wrong, where (file, line, name), what was expected and
    what to do. Programs print it and exit with status 1.
    """
