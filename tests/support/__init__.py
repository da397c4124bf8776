"""Helpers of several tests: a simulated API, the exporter as a process, faults, a browser, Prometheus, the contract."""

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent.parent
"""The repository."""


def read_yaml(text: str) -> Any:
    """What `yaml.safe_load` returns, ten times as fast."""
    return yaml.load(text, yaml.CSafeLoader)
