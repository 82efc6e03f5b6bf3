"""The surface over its background: kernels against the formula in double precision."""

import pytest
import torch

from raylib.kernels.threads import parts_for
from raylib.render import composite
from raylib.render.composite import over

SIZE = (2, 9, 13)


def scene(background, seed=0):
    g = torch.Generator().manual_seed(seed)
    share = torch.rand(*SIZE, 1, generator=g)
    share[:, :2] = 1.0  # nothing but background, where 1 - share is held off zero
    color = torch.rand(*SIZE, 3, generator=g) * (1 - share)
    alpha = torch.rand(SIZE, generator=g) * (share[..., 0] < 1)
    shape = {"none": None, "color": (3,), "picture": (*SIZE[1:], 3), "pictures": (*SIZE, 3)}[background]
    return color, share, alpha, None if shape is None else torch.rand(shape, generator=g)


def values_and_gradients(tensors, dtype):
    leaves = [None if t is None else t.to(dtype).requires_grad_() for t in tensors]
    image = over(*leaves)
    weight = torch.rand(image.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    (image * weight).sum().backward()
    return [image.detach(), *(leaf.grad for leaf in leaves if leaf is not None)]


@pytest.mark.parametrize("background", ["none", "color", "picture", "pictures"])
@pytest.mark.parametrize("threads", [1, 3])
def test_kernels_equal_the_formula(background, threads, monkeypatch):
    monkeypatch.setattr(composite, "parts_for", lambda items, worth: parts_for(items, 1))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ours = values_and_gradients(scene(background), torch.float32)
    finally:
        torch.set_num_threads(before)
    for a, b in zip(ours, values_and_gradients(scene(background), torch.float64), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-6)


def test_a_background_that_needs_no_gradient_gets_none():
    color, share, alpha, background = scene("pictures")
    over(color.requires_grad_(), share, alpha, background).sum().backward()
    assert color.grad is not None and background.grad is None
