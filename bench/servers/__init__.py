"""What the peers run, each in its own environment: nothing here may import the sidecar or the rest of `bench`."""
