"""Sends the time, again and again, and notes when it hears that its caller has gone."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[4]))  # the project, whatever directory Triton runs in

import time

import numpy as np

from testbed.backend import Arrays, Sender, StreamingModel, response

# How often it is asked whether the caller has gone, while it waits to send.
_LOOK_S = 0.005


class TritonPythonModel(StreamingModel):
    """Ticks."""

    def stream(self, inputs: Arrays, sender: Sender) -> None:
        delay_s = float(inputs["delay_ms"][0]) / 1e3
        for _ in range(int(inputs["count"][0])):
            sender.send(response({"sent_ns": np.array([time.monotonic_ns()], np.int64)}))
            until = time.monotonic() + delay_s
            while not sender.is_cancelled() and time.monotonic() < until:
                time.sleep(min(_LOOK_S, delay_s))
            if sender.is_cancelled():
                if "heard" in inputs:
                    with Path(inputs["heard"][0].decode()).open("a") as file:
                        file.write(f"{time.monotonic_ns()}\n")
                break
