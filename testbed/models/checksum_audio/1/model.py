"""Checksums of waveforms of any length; only equal lengths run together."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[4]))  # the project, whatever directory Triton runs in

from testbed.backend import ChecksumModel

TritonPythonModel = ChecksumModel
