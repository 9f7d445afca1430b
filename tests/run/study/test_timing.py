"""What benchmarks share."""

import time

from prefrl.run.study.timing import seconds, spread


def test_timing():
    assert 0.01 <= seconds(lambda: time.sleep(0.01)) < 1.0
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 3.0}
