"""Watching the path: timings, metrics, logs. It never decides, and could be deleted."""
