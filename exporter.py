"""Run the exporter from a checkout or an image: `python exporter.py --help`."""

import signal
import sys

if __name__ == "__main__":
    # Importing takes a while, in which a signal to reload would end the process; there is nothing to read again yet.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    from inkit_exporter.app import main

    sys.exit(main())
