"""A real Triton on this machine, for the demo, the tests and the benchmarks.

`install` builds it, `triton` starts and stops it, `models/` is its repository, `media/` and
`checkpoints/` are what the demo feeds it. Nothing in the product may import this package, and this
package imports nothing of the product; the models run in an interpreter of their own, so this file
and `checksum`, `backend` beside it must import in both.
"""
