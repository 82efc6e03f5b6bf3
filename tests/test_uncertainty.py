from dataclasses import replace

import pytest
import torch
from scipy.stats import spearmanr

from raylib.regressor.uncertainty import LogErrorModel
from raylib.training.regressor.uncertainty import JudgedErrors, calibrated_sigma, error_trend, network_weight

N_VERTS, N_FEATURES = 40, 12


def judged(n, seed, said=0.0):
    """Errors that grow with the first feature and the square of the second, in two patterns; the rest is chance."""
    g = torch.Generator().manual_seed(seed)
    features = 5 + 3 * torch.randn(n, N_FEATURES, generator=g)
    x = (features - 5) / 3
    half = (torch.arange(N_VERTS) < N_VERTS // 2).float()
    trend = 0.5 * x[:, :1] * half + 0.4 * (x[:, 1:2].square() - 1) * (1 - half)
    chance = torch.distributions.HalfNormal(1.0).icdf(torch.rand(n, N_VERTS, generator=g))
    return JudgedErrors(trend.exp() * chance, said * trend, features), trend


def test_the_trend_ranks_errors_of_faces_that_it_was_not_trained_on():
    found = error_trend(judged(800, 0)[0])
    others, exact = judged(300, 1)
    ranks, best = (spearmanr(t.ravel(), others.error_mm.ravel())[0] for t in (found(others.features), exact))
    assert ranks > 0.85 * best > 0.3
    assert torch.corrcoef(torch.stack([found(others.features).ravel(), exact.ravel()]))[0, 1] > 0.9


def test_the_network_is_believed_as_far_as_it_knows_more_than_the_fits():
    faces, exact = judged(800, 0)
    trend = error_trend(faces)
    own = 0.5 * torch.randn(exact.shape, generator=torch.Generator().manual_seed(3))
    # What fits do not tell, but the network does; what it makes up; and what fits tell as well.
    knows = replace(faces, error_mm=faces.error_mm * own.exp(), log_predicted=own)
    share = network_weight(knows, error_trend(knows))
    assert 0.8 < share <= 1
    assert network_weight(replace(knows, log_predicted=2 * own), error_trend(knows)) == pytest.approx(
        share / 2, rel=1e-3
    )
    assert network_weight(replace(faces, log_predicted=own), trend) < 0.03
    assert network_weight(replace(faces, log_predicted=exact), trend) < 0.2
    assert network_weight(replace(faces, log_predicted=-own), trend) < 0.03
    assert network_weight(replace(faces, log_predicted=torch.zeros_like(own)), trend) == 0.0


def test_a_trend_without_patterns_says_nothing_and_far_features_do_not_run_away():
    features = torch.randn(5, N_FEATURES)
    assert torch.equal(LogErrorModel.empty(N_VERTS)(features), torch.zeros(5, N_VERTS))
    found = error_trend(judged(800, 0)[0])
    assert found(1e6 * features).abs().max() < 40


@pytest.mark.parametrize("mirror", [None, torch.arange(N_VERTS).flip(0)])
def test_calibrated_uncertainty_is_the_error_on_average(mirror):
    faces, _ = judged(200, 2, said=0.5)
    sigma = calibrated_sigma(faces, mirror)
    told, true = (sigma * faces.log_predicted.exp()).mean(0), faces.error_mm.mean(0)
    if mirror is None:
        torch.testing.assert_close(told, true)
    else:
        assert torch.equal(sigma, sigma[mirror])
        assert told.mean() == pytest.approx(float(true.mean()), rel=0.1)
