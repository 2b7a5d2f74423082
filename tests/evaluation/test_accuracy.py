import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evaluation.accuracy import accuracy_of_scores, label_ranks


@given(
    st.lists(st.lists(st.integers(-3, 3), min_size=4, max_size=4), min_size=1, max_size=6),
    st.integers(0, 3),
)
def test_rank_is_the_place_in_a_stable_sort(rows: list[list[int]], label: int) -> None:
    scores = torch.tensor(rows, dtype=torch.float32)
    labels = torch.full((len(rows),), label)
    expected = [sorted(range(4), key=lambda c: -row[c]).index(label) for row in rows]
    assert label_ranks(scores, labels).tolist() == expected


@given(st.lists(st.lists(st.integers(-3, 3), min_size=4, max_size=4), min_size=1, max_size=6))
def test_rank_zero_is_where_argmax_points(rows: list[list[int]]) -> None:
    scores = torch.tensor(rows, dtype=torch.float32)
    assert label_ranks(scores, scores.argmax(dim=1)).tolist() == [0] * len(rows)


def test_five_best_of_seven() -> None:
    scores = torch.arange(7.0).flip(0).repeat(7, 1)  # class 0 is best, class 6 worst
    accuracy = accuracy_of_scores(scores, torch.arange(7))
    assert accuracy.top1 == pytest.approx(100 / 7)
    assert accuracy.top5 == pytest.approx(500 / 7)


def test_a_diverged_classifier_scores_nothing() -> None:
    accuracy = accuracy_of_scores(torch.full((3, 8), torch.nan), torch.tensor([0, 1, 7]))
    assert (accuracy.top1, accuracy.top5) == (0.0, 0.0)
