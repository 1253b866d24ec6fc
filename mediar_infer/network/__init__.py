"""The MEDIAR-Former, its weight files, and the backends that run it."""
