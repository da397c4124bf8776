"""How the storage is, as metrics and the status page show it."""

from msgspec import Struct


class StorageHealth(Struct, frozen=True):
    """`healthy` is False while an account is in memory only. `error` then says which one and why.

    `failures` counts loads and saves that failed since the start. `size_bytes` is the size of all files.
    """

    healthy: bool
    error: str | None
    failures: int
    size_bytes: int
