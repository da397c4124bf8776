"""Errors that any room may raise, and the reasons of others."""


class ConfigError(Exception):
    """What is wrong with the configuration, where, and what to do, in one line."""

    def __str__(self) -> str:
        return " ".join(super().__str__().split())


def reason_of(error: BaseException) -> str:
    """The system's words for an error, if it has some. They don't repeat the name of the file, unlike `str`."""
    return getattr(error, "strerror", None) or str(error)
