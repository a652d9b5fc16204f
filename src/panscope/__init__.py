"""A microscope for language models. Import from the modules below; this one holds the version."""

__version__ = "0.1.0"
