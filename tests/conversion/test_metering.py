"""What a conversion tells of its work."""

import time

import numpy as np
import pytest

from memrec_convert.conversion.inputs.metering import Meter, MeteredRows, Stopwatch


class SlowRows:
    """Rows of zeros that take a while to read."""

    shape = (100, 4)

    def read_rows(self, start, stop):
        """Rows start to stop - 1."""
        time.sleep(0.02)
        return np.zeros((stop - start, 4), dtype=np.float32)

    def read_ids(self, ids):
        """The rows of these ids."""
        time.sleep(0.02)
        return np.zeros((len(ids), 4), dtype=np.float32)


def test_reading_is_told_apart_by_stage():
    """Stages that read nothing are left out; a meter that comes while a stage is open counts from then on."""
    meter, watch = Meter(), Stopwatch()
    rows = MeteredRows(SlowRows(), meter)
    with watch.stage("read"):
        watch.meter = meter
        rows.read_rows(0, 10)
    with watch.stage("plan"):
        pass
    for _ in range(2):
        with watch.stage("code"):
            rows.read_ids(np.arange(3))
    reading = watch.rounded_reading()
    assert list(reading) == ["read", "code"]
    assert reading["code"] >= 0.04
    assert all(reading[name] <= watch.seconds[name] + 0.001 for name in reading)
    assert sum(reading.values()) == pytest.approx(meter.seconds, abs=0.002)
    assert set(watch.rounded()) == {"read", "plan", "code", "total"}


def test_bytes_are_told_as_they_are_read():
    """Up to those of the stage, whoever reads more."""
    meter, told = Meter(), []
    rows = MeteredRows(SlowRows(), meter)
    with meter.stage("fit", 320, lambda *values: told.append(values)):
        for start in (0, 10, 20):
            rows.read_rows(start, start + 10)
    rows.read_rows(0, 10)
    assert told == [("fit", 0, 320), ("fit", 160, 320), ("fit", 320, 320), ("fit", 320, 320), ("fit", 320, 320)]
