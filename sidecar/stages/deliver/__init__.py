"""Handing tensors to the model server, and reading its answers."""
