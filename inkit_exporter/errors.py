"""Errors that any room may raise."""


class ConfigError(Exception):
    """What is wrong with the configuration, where, and what to do, in one line."""

    def __str__(self) -> str:
        return " ".join(super().__str__().split())
