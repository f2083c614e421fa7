"""The parts behind `cache_models`; import that module, not this package."""

__version__ = "0.1.0"
