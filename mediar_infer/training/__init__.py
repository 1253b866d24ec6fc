"""Training of MEDIAR-Former networks; inference never imports this package."""
