"""Recipes for sound, a file a family: each opens with what it computes and which keys drive it."""
