"""sRGB to linear light and back is the identity; known values of the standard."""

import torch

from raylib.lighting.color import linear_to_srgb, srgb_to_linear


def test_round_trip_and_known_values():
    grey = torch.linspace(-0.1, 1.5, 4001, dtype=torch.float64)
    assert torch.allclose(linear_to_srgb(srgb_to_linear(grey)), grey, atol=1e-4)
    assert torch.allclose(
        srgb_to_linear(torch.tensor([0.0, 0.5, 1.0])), torch.tensor([0.0, 0.2140411, 1.0]), atol=1e-6
    )


def test_gradient_is_finite_at_black_and_beyond_white():
    x = torch.tensor([0.0, -0.01, 1e-9, 2.0], requires_grad=True)
    (srgb_to_linear(x).sum() + linear_to_srgb(x).sum()).backward()
    assert torch.isfinite(x.grad).all()
