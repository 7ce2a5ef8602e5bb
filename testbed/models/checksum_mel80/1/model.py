"""Checksums of log-mel spectrograms of 80 bands, 30 s at 10 ms."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[4]))  # the project, whatever directory Triton runs in

from testbed.backend import ChecksumModel

TritonPythonModel = ChecksumModel
