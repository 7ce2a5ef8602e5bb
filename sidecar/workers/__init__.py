"""Where stage code runs: a job in, its tensors and times out."""
