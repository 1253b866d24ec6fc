"""A page about many images in one HTML file: numbers, pictures and what went wrong."""
