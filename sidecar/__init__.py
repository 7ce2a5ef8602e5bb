"""The sidecar that keeps the GPU fed.

Media bytes come in over gRPC, are measured before they are decoded, admitted through a bounded
queue, decoded and shaped on a CPU budget, handed to the model server, and answered with a time for
every stage::

    receive -> probe -> admit -> decode -> transform -> pack -> deliver -> respond
    `--edge--' `----stages----'  `-------workers-------'  `-upstream-' `--edge--'

The same word is the file, the function, the field of the reply, the metric's label and the test's
name. `pipeline.py` is that line as code; `app.py` is the only place where objects meet.
"""
