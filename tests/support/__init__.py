"""Helpers of several tests: a simulated API, the exporter as a process, faults, a browser, Prometheus, the contract."""

from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
"""The repository."""
