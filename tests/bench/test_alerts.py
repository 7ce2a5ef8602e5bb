"""The shipped alert of starvation, by a real Prometheus over a real Triton: it rings in time, and it is over."""

from __future__ import annotations

import pytest

from bench import alerts
from testbed.install import CannotInstall


@pytest.mark.full
@pytest.mark.triton
@pytest.mark.timeout(600)
def test_an_injected_starvation_is_told_within_half_a_minute_and_is_over_afterwards() -> None:
    try:
        result = alerts.run(rounds=1, faults=alerts.FAULTS[:1])
    except CannotInstall as reason:
        pytest.skip(str(reason))
    assert [each["target"] for each in result["targets"] if not each["holds"]] == []
