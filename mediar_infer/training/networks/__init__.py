"""Networks and layers that only training needs."""
