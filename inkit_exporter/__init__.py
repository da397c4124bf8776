"""A Prometheus exporter for Inkit's workflow batches."""

__version__ = "0.1.0"
