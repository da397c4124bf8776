"""Where every way to start the exporter begins: `python exporter.py`, `python -m inkit_exporter`, `inkit-exporter`."""

import gc
import os
import signal
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line, and end the process; `app.main` says with which status."""
    # Importing takes a while. Until it is done, a signal to reload would end the process, and Ctrl-C with a traceback.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    interrupt = signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Imports leave hardly any garbage, but searching for it takes 15% of the time to start. Imported objects stay, so
    # later collections skip them: otherwise each would delay scrapes by 20 ms.
    gc.disable()
    # aiohttp reads all certificate authorities twice when it is imported: another 15% if they are in one file. This
    # prevents it, so aiohttp's own contexts trust nobody. `transport` makes one that trusts the system's authorities.
    given = os.environ.get("SSL_CERT_FILE")
    os.environ["SSL_CERT_FILE"] = os.devnull
    from inkit_exporter import app  # noqa: PLC0415 - only now

    del os.environ["SSL_CERT_FILE"]
    if given is not None:
        os.environ["SSL_CERT_FILE"] = given
    gc.freeze()
    gc.enable()
    signal.signal(signal.SIGINT, interrupt)
    app.main()


if __name__ == "__main__":
    main()
