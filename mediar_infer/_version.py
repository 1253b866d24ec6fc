"""Version of the package, kept apart so that setup can read it without importing anything."""

__version__ = "0.2.3"
