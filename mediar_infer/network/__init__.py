"""The MEDIAR-Former, its weight files, and what computes it."""
