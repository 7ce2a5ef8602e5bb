"""Inside the neighbour's container: becomes the testbed's Triton, on fixed ports of the pod's loopback."""

from __future__ import annotations

import os

from testbed.install import installed
from testbed.triton import ENVIRONMENT, MODELS

SERVED = ("ocr", "vad", "checksum_fp32", "checksum_mel80", "slow")


def main() -> None:
    found = installed()
    environment = {
        **ENVIRONMENT,
        "PATH": f"{found.python_bin}:/usr/bin:/bin",
        "LD_LIBRARY_PATH": ":".join(map(str, found.library_dirs)),
    }
    command = [
        str(found.server),
        f"--model-repository={MODELS}",
        f"--backend-directory={found.backends}",
        "--model-control-mode=explicit",
        *(f"--load-model={model}" for model in SERVED),
        "--grpc-address=127.0.0.1",
        "--grpc-port=8001",
        "--http-address=127.0.0.1",
        "--http-port=8000",
        "--allow-metrics=false",
        "--allow-gpu-metrics=false",
        "--pinned-memory-pool-byte-size=0",
        "--exit-timeout-secs=5",
    ]
    os.execve(command[0], command, environment)


if __name__ == "__main__":
    main()
