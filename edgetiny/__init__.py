"""Train, compress, export and benchmark tiny language models for edge devices."""

__version__ = "0.1.0"
