"""Recipes for pictures, a file a family: each opens with what it computes and which keys drive it."""
