"""What a latency step says of memory: the peak of answering, apart from that of loading."""

from __future__ import annotations

import pytest

from harness.measure.latency import forget_peak, peak_rss_bytes

MB = 10**6


def test_the_peak_is_of_what_came_since() -> None:
    block = b"x" * (400 * MB)
    high = peak_rss_bytes()
    assert high >= len(block)
    del block
    if not forget_peak():
        pytest.skip("this system does not let a process start its peak anew")
    low = peak_rss_bytes()
    assert low <= high - 350 * MB
    again = b"x" * (100 * MB)
    assert low + 90 * MB <= peak_rss_bytes() < high - 200 * MB
    del again
