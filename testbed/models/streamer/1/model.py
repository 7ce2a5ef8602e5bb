"""Answers one request with a stream of tokens, and stops when the caller has gone."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[4]))  # the project, whatever directory Triton runs in

import time

import numpy as np

from testbed.backend import Arrays, Sender, StreamingModel, response
from testbed.checksum import checksum


class TritonPythonModel(StreamingModel):
    """Counts, with the checksum of its picture."""

    def stream(self, inputs: Arrays, sender: Sender) -> None:
        sums = np.array(checksum(inputs["pixel_values"]))
        count = int(inputs["count"][0])
        delay_s = float(inputs["delay_ms"][0]) / 1e3 if "delay_ms" in inputs else 0.0
        for index in range(count):
            if sender.is_cancelled():
                break
            token = np.array([f"token {index} of {count}".encode()], object)
            sender.send(response({"token": token, "index": np.array([index], np.int32), "checksum": sums}))
            time.sleep(delay_s)
