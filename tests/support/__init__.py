"""Helpers of several tests: a simulated API, the exporter as a process, faults, a browser, Prometheus, the contract."""

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent.parent
"""The repository."""

PATIENCE_SECONDS = 60.0
"""A time limit for what comes soon. It is far longer, because a busy machine may stand still for seconds."""


def read_yaml(text: str) -> Any:
    """What `yaml.safe_load` returns, ten times as fast."""
    return yaml.load(text, yaml.CSafeLoader)
