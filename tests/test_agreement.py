"""Agreement against figures worked out elsewhere."""

import pytest

from training.agreement import agreement_of_pairs, krippendorff_alpha


def test_krippendorff_s_own_example() -> None:
    """Krippendorff (2011), "Computing Krippendorff's alpha-reliability", nominal data of four observers: .743."""
    rows = [
        "1 2 3 3 2 1 4 1 2 . . .", "1 2 3 3 2 2 4 1 2 5 . 3", ". 3 3 3 2 3 4 2 2 5 1 .", "1 2 3 3 2 4 4 1 2 5 1 .",
    ]  # fmt: skip
    items = [[value for value in column if value != "."] for column in zip(*(row.split() for row in rows), strict=True)]
    assert krippendorff_alpha(items) == pytest.approx(0.743, abs=5e-4)


def test_where_it_is_not_defined() -> None:
    assert krippendorff_alpha([["a"], ["b"]]) is None
    assert krippendorff_alpha([["a", "a"]]) is None
    assert krippendorff_alpha([["a", "a"], ["b", "b"]]) == 1


def test_pairs_are_measured_on_what_both_labelled() -> None:
    given = {"Ann": {"1": "a", "2": "b"}, "Bo": {"2": "b", "3": "a"}, "Cy": {"9": "a"}}
    assert [(each.part, each.rows, each.same) for each in agreement_of_pairs(given)] == [("Ann and Bo", 1, 1.0)]
