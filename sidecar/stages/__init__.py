"""One module per step of the path. Plain synchronous functions from values to values.

A step never knows who called it, never imports another step, and never meets a clock, an event loop
or the environment. Deliver alone talks to the outside, and so is asynchronous.
"""
