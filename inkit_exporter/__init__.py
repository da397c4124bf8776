"""A Prometheus exporter for Inkit's batches."""

__version__ = "0.1.0"
