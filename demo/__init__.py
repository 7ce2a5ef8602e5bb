"""The main job, shown: `make demo` starts a real Triton and the sidecar, and asks both something."""
