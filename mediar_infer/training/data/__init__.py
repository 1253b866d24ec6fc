"""Data table: images, labels, roles, splits, and the checks of them."""
