"""Stages of a recipe: from start weights to trained weights."""
