"""GRACE: generative cross-modal retrieval of images, as one pipeline (`python -m grace --help`)."""

__version__ = "0.1.0"
