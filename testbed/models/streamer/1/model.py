"""Answers one request with a stream of tokens, and stops when the caller has gone."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[4]))  # the project, whatever directory Triton runs in

import threading
import time
from collections.abc import Sequence

import numpy as np
import triton_python_backend_utils as pb

from testbed.backend import Arrays, Request, Sender, inputs_of, response
from testbed.checksum import checksum


class TritonPythonModel:
    """A thread per request: a slow stream does not hold up the others."""

    def initialize(self, _: dict[str, str]) -> None:
        self.threads: set[threading.Thread] = set()

    def execute(self, requests: Sequence[Request]) -> None:
        self.threads = {thread for thread in self.threads if thread.is_alive()}
        for request in requests:
            work = (inputs_of(request), request.get_response_sender())
            thread = threading.Thread(target=self.stream, args=work)
            self.threads.add(thread)
            thread.start()

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
        sender.send(flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def finalize(self) -> None:
        for thread in self.threads:
            thread.join()
