"""Decoded media -> the model's pixels and features. Arrays in, arrays out; which steps is for recipes to say."""
