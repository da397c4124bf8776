"""Where every way to start the exporter begins: `python exporter.py`, `python -m inkit_exporter`, `inkit-exporter`."""

import signal
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; `app.main` says what it returns."""
    # Imports take a while. In it a signal to reload would end the process, and there is nothing to reload yet.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from inkit_exporter import app  # noqa: PLC0415 - not before all that

    return app.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
