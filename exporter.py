"""Run the exporter from a checkout or an image: `python exporter.py --help`."""

from inkit_exporter.__main__ import main

if __name__ == "__main__":
    main()
