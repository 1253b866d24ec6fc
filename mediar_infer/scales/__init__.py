"""Which size networks see an image at, and labels from maps of another size than the image."""
