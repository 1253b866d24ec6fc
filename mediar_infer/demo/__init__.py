"""Generated scenes with known cells."""
