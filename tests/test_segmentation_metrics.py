import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from raylib.metrics.segmentation import (
    bootstrap_sums,
    boundary_counts,
    boundary_f1,
    class_scores,
    confusion_matrix,
)

maps = arrays(np.uint8, (7, 9), elements=st.integers(0, 3))


@given(maps, maps)
def test_confusion_is_the_naive_count(truth, guess):
    truth = np.where(truth == 3, 255, truth)
    expected = np.zeros((4, 4), int)
    for t, g in zip(truth.ravel(), guess.ravel(), strict=True):
        if t != 255:
            expected[t, g] += 1
    assert (confusion_matrix(truth, guess, 4) == expected).all()


@given(maps, maps)
def test_scores_are_their_set_definitions(truth, guess):
    scores = class_scores(confusion_matrix(truth, guess, 4))
    assert scores.pixel_accuracy == pytest.approx((truth == guess).mean())
    for k in range(4):
        a, b = truth == k, guess == k
        if not (a | b).any():
            assert np.isnan(scores.f1[k])
            continue
        assert scores.iou[k] == pytest.approx((a & b).sum() / (a | b).sum())
        assert scores.f1[k] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
        assert scores.f1[k] == pytest.approx(2 * scores.iou[k] / (1 + scores.iou[k]))
        if a.any():
            assert scores.recall[k] == pytest.approx((a & b).sum() / a.sum())
        if b.any():
            assert scores.precision[k] == pytest.approx((a & b).sum() / b.sum())


def test_many_matrices_score_as_single_ones():
    confusion = np.random.default_rng(0).integers(0, 50, (5, 3, 3))
    together = class_scores(confusion)
    for i in range(5):
        alone = class_scores(confusion[i])
        assert np.array_equal(together.f1[i], alone.f1)
        assert together.mean_f1[i] == alone.mean_f1
        assert together.mean_iou[i] == alone.mean_iou


def _square(size: int, at: int, side: int) -> np.ndarray:
    labels = np.zeros((size, size), np.uint8)
    labels[at : at + side, at : at + side] = 1
    return labels


def test_outlines_within_the_tolerance_are_as_good_as_equal():
    truth = _square(40, 10, 15)
    score = {
        shift: boundary_f1(boundary_counts(truth, np.roll(truth, shift, 1), 2, tolerance_px=2.0))[1]
        for shift in (0, 2, 3, 12)
    }
    assert score[0] == score[2] == 1
    assert 0.4 < score[3] < 1
    assert score[12] < score[3]


def test_the_border_of_the_map_is_no_outline():
    counts = boundary_counts(np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8), 2, 1.0)
    assert (counts == 0).all()
    assert np.isnan(boundary_f1(counts)).all()


def test_a_missed_part_scores_zero():
    truth = _square(20, 5, 6)
    counts = boundary_counts(truth, np.zeros_like(truth), 2, 1.0)
    assert counts[1].tolist() == [0, 0, 0, 20]
    assert boundary_f1(counts)[1] == 0


def test_bootstrap_resamples_whole_images():
    per_image = np.random.default_rng(3).integers(0, 100, (40, 2, 3))
    sums = bootstrap_sums(per_image, 4000, seed=1)
    assert np.array_equal(sums, bootstrap_sums(per_image, 4000, seed=1))
    # Mean and standard deviation of a sum of n draws with replacement.
    assert sums.mean(0) == pytest.approx(per_image.sum(0), rel=0.01)
    assert sums.std(0) == pytest.approx(per_image.std(0) * np.sqrt(40), rel=0.06)


def test_identical_images_leave_no_uncertainty():
    per_image = np.tile(np.array([[5, 1], [2, 7]]), (9, 1, 1))
    assert (bootstrap_sums(per_image, 20, seed=0) == 9 * per_image[0]).all()
