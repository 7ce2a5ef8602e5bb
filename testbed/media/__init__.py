"""The demo's two media files, and what made them. Holds no code that the demo runs."""
