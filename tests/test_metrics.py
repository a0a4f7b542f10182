from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, f1_score

from models.calibration import softmax
from training.calibrate import choose_threshold, fit_calibration
from training.metrics import bootstrap_macro_f1, expected_calibration_error, measure
from training.report import draw_losses, fits_of

RANDOM = np.random.default_rng(5)
LOGITS = RANDOM.normal(size=(4000, 3)) * 2
TRUTH = np.array([RANDOM.choice(3, p=row) for row in softmax(LOGITS)], dtype=np.int64)


def test_agrees_with_scikit_learn() -> None:
    probabilities = softmax(LOGITS)
    scores = measure(probabilities, TRUTH, ["a", "b", "c"])
    predicted = probabilities.argmax(1)
    assert scores.macro_f1 == pytest.approx(f1_score(TRUTH, predicted, average="macro"))
    assert scores.weighted_f1 == pytest.approx(f1_score(TRUTH, predicted, average="weighted"))
    assert scores.brier == pytest.approx(brier_score_loss(TRUTH, probabilities, labels=[0, 1, 2], scale_by_half=False))
    assert scores.interval[0] < scores.macro_f1 < scores.interval[1]


def test_calibrated_probabilities_have_little_calibration_error() -> None:
    assert expected_calibration_error(softmax(LOGITS), TRUTH) < 0.03
    assert expected_calibration_error(softmax(LOGITS * 3), TRUTH) > 0.1


def test_temperature_and_bias_are_recovered() -> None:
    found = fit_calibration(LOGITS * 2.5, TRUTH, bias=False)
    assert found.temperature == pytest.approx(2.5, rel=0.05)
    assert found.bias == ()
    moved = (LOGITS + np.array([0.8, 0.0, -0.8])) * 2.5
    shifted = fit_calibration(moved, TRUTH, bias=True)
    assert shifted.temperature == pytest.approx(2.5, rel=0.05)
    assert shifted.bias == pytest.approx([-0.8, 0.0, 0.8], abs=0.1)
    assert expected_calibration_error(softmax(moved, shifted.temperature, shifted.bias), TRUTH) < 0.03


def test_a_prior_moves_the_labels_to_their_expected_shares() -> None:
    plain = fit_calibration(LOGITS, TRUTH, bias=True)
    moved = fit_calibration(LOGITS, TRUTH, bias=True, prior=[0.1, 0.1, 0.8])
    assert moved.temperature == plain.temperature
    shares = np.bincount(TRUTH) / len(TRUTH)
    expected = np.array(plain.bias) + np.log([0.1, 0.1, 0.8]) - np.log(shares)
    assert moved.bias == pytest.approx(expected, abs=1e-5)
    assert (softmax(LOGITS, moved.temperature, moved.bias).argmax(1) == 2).mean() > (LOGITS.argmax(1) == 2).mean()


def test_threshold_reaches_its_target() -> None:
    probabilities = softmax(LOGITS)
    threshold = choose_threshold(probabilities, TRUTH, 0.9)
    sure = probabilities.max(1) >= threshold
    assert (probabilities.argmax(1) == TRUTH)[sure].mean() >= 0.9
    assert 0.1 < sure.mean() < 0.9
    assert choose_threshold(np.full((50, 3), 1 / 3), np.ones(50, dtype=np.int64), 0.9) == 1.0


def test_bootstrap_is_paired_by_seed() -> None:
    predicted = LOGITS.argmax(1)
    first = bootstrap_macro_f1(predicted, TRUTH, 3, samples=50)
    assert (first == bootstrap_macro_f1(predicted, TRUTH, 3, samples=50)).all()
    assert first.mean() == pytest.approx(f1_score(TRUTH, predicted, average="macro"), abs=0.01)


def test_each_fit_has_a_line_of_its_own(tmp_path: Path) -> None:
    history = [
        {"epoch": 1.0, "step": 10.0, "loss": 0.9},
        {"epoch": 1.0, "step": 10.0, "eval_loss": 0.8, "eval_macro_f1": 0.5},
        {"epoch": 2.0, "step": 20.0, "loss": 0.7},
        {"epoch": 1.0, "step": 24.0, "loss": 0.6},
        {"epoch": 2.0, "step": 28.0, "loss": 0.5},
        {"epoch": 1.0, "step": 32.0, "loss": 0.6},
    ]
    assert fits_of(history, "loss") == [[(10, 0.9), (20, 0.7)], [(24, 0.6), (28, 0.5)], [(32, 0.6)]]
    assert fits_of(history, "eval_loss") == [[(10, 0.8)]]
    assert draw_losses(history, tmp_path / "losses.png").stat().st_size > 1000
