"""Sockets that systemd opened for this process (sd_listen_fds(3))."""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from inkit_exporter.errors import ConfigError

_FIRST_DESCRIPTOR: Final = 3


def systemd_sockets(environ: Mapping[str, str]) -> list[socket.socket]:
    """The sockets that systemd passed. Raises ConfigError if there are none, or if one does not listen."""
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(os.getpid()) or not count.isdecimal() or not int(count):
        raise ConfigError(
            "--web.systemd-socket: systemd passed no socket; start the socket unit, or leave out the flag"
        )
    return [_open(descriptor) for descriptor in range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + int(count))]


def _open(descriptor: int) -> socket.socket:
    with suppress(OSError):  # as it is no socket at all
        passed = socket.socket(fileno=descriptor)
        if passed.type == socket.SOCK_STREAM and passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return passed
    raise ConfigError(
        f"--web.systemd-socket: descriptor {descriptor} does not listen for connections; "
        "write ListenStream= and Accept=no in the socket unit"
    )
