"""The package's version: in one place, which everything may import."""

__version__ = "0.1.0"
