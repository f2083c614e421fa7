"""The parts behind `cache_models`; import that module, not this package."""
