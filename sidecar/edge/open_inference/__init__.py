"""Triton's own API, so that its clients work unchanged: what has a recipe is preprocessed, all else is passed on."""
