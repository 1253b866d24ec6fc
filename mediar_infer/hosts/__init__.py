"""Adapters to programs that call a segmentation method with parts of an image."""
