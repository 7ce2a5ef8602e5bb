"""Ground truth for the verdict: an emulated accelerator that records what it did, faults, and callers who keep time.

What is true of an episode is told by the accelerator's own record, by the relay that requests pass on their way to it,
and by the callers; nothing of it comes from the sidecar.
"""
