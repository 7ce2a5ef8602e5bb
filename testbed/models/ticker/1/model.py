"""Sends the time, again and again, and notes when it hears that its caller has gone."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[4]))  # the project, whatever directory Triton runs in

import threading
import time
from collections.abc import Sequence

import numpy as np
import triton_python_backend_utils as pb

from testbed.backend import Arrays, Request, Sender, inputs_of, response

# How often it is asked whether the caller has gone, while it waits to send.
_LOOK_S = 0.005


class TritonPythonModel:
    """A thread per request: a slow stream does not hold up the others."""

    def initialize(self, _: dict[str, str]) -> None:
        self.threads: set[threading.Thread] = set()

    def execute(self, requests: Sequence[Request]) -> None:
        self.threads = {thread for thread in self.threads if thread.is_alive()}
        for request in requests:
            work = (inputs_of(request), request.get_response_sender())
            thread = threading.Thread(target=self.tick, args=work)
            self.threads.add(thread)
            thread.start()

    def tick(self, inputs: Arrays, sender: Sender) -> None:
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
        sender.send(flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def finalize(self) -> None:
        for thread in self.threads:
            thread.join()
