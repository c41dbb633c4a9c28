"""The bench's arithmetic and its table; what it measures needs a quiet machine and is nobody's test."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bench.figures import TIMES, BenchError, Row, Samples, percentile, plain, ratio, table

TIME = st.floats(min_value=0.001, max_value=1e6)


def test_of_repeated_measurements_the_middle_the_least_and_the_worst_but_one() -> None:
    samples = Samples.of([0.001 * n for n in range(20, 0, -1)], 1000)
    assert (samples.least, samples.median, samples.p95) == pytest.approx((1, 10.5, 19))
    assert samples.described() == "least 1.00, median 10.5, p95 19.0 ms (20 samples)"


def test_no_sample_is_an_error_and_not_a_number() -> None:
    with pytest.raises(BenchError):
        Samples.of([])
    with pytest.raises(BenchError):
        ratio(1.0, 0.0)


@given(st.lists(TIME, min_size=1, max_size=50), st.floats(min_value=0.01, max_value=1))
def test_a_percentile_is_a_sample_that_enough_others_do_not_exceed(values: list[float], share: float) -> None:
    found = percentile(values, share)
    below = [value for value in values if value < found]
    assert found in values
    assert len([value for value in values if value <= found]) >= share * len(values) - 1e-9
    assert len(below) < share * len(values) + 1e-9


def test_an_aim_is_the_most_that_is_good() -> None:
    assert Row("x", 1.15, TIMES, 1.15).reached is True
    assert Row("x", 1.16, TIMES, 1.15).reached is False
    assert Row("x", 99.0, "MB").reached is None


def test_the_table_says_what_was_missed_and_why() -> None:
    rows = [Row("a turn", 25.04, "ms", 20.0, ("on a slow day",)), Row("cold", 1.1, TIMES, 1.15), Row("size", 150, "MB")]
    assert table(rows).splitlines() == [
        "measured   result  aim",
        "a turn    25.0 ms  ≤ 20.0 ms  MISSED",
        "    on a slow day",
        f"cold       1.10 {TIMES}  ≤ 1.15 {TIMES}   reached",
        "size       150 MB",
    ]


def test_the_verdict_goes_by_the_number_and_not_by_what_is_shown_of_it() -> None:
    row = Row("a turn", 25.04, "ms", 25.0)
    assert (row.verdict, row.record()["value"], row.record()["reached"]) == ("MISSED", 25.04, False)


@pytest.mark.parametrize(("value", "text"), [(0.0, "0.00"), (9.994, "9.99"), (35.06, "35.1"), (1434.2, "1434")])
def test_three_digits_that_mean_something(value: float, text: str) -> None:
    assert plain(value) == text
