"""Windows, flips and models: from rows of an image to bands of merged maps."""
