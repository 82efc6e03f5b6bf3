"""How large the network's errors are where fits and pictures look a certain way: a trend behind the uncertainty."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

_FURTHEST = 6.0  # deviations; nothing in the training set was further out


@dataclass(frozen=True)
class LogErrorModel:
    """The logarithm of the error, linear in features and their squares, in a few patterns of vertices.

    The features are `regressor.corrections.trend_features`. Trained in closed form by ridge regression
    (`training.regressor.uncertainty`). It says more than a network learns from the likelihood of single vertices,
    whose errors are mostly chance.

    Attributes:
        means: of the features.
        spreads: their deviations.
        weights: of features and squares, for each pattern.
        patterns: over the vertices.
    """

    means: Float[Tensor, " g"]
    spreads: Float[Tensor, " g"]
    weights: Float[Tensor, "h k"]
    patterns: Float[Tensor, "k v"]

    @staticmethod
    def empty(n_verts: int) -> LogErrorModel:
        """Returns a trend that says nothing."""
        return LogErrorModel(torch.zeros(0), torch.zeros(0), torch.zeros(0, 0), torch.zeros(0, n_verts))

    def to(self, device: torch.device | str) -> LogErrorModel:
        """Returns the trend on a device."""
        return LogErrorModel(*(t.to(device) for t in (self.means, self.spreads, self.weights, self.patterns)))

    def __call__(self, features: Float[Tensor, "b g"]) -> Float[Tensor, "b v"]:
        """Returns the logarithm of the factor on each vertex's usual error."""
        if not len(self.patterns):
            return features.new_zeros(len(features), self.patterns.shape[1])
        return with_squares(features, self.means, self.spreads) @ self.weights @ self.patterns


def with_squares(
    features: Float[Tensor, "b g"], means: Float[Tensor, " g"], spreads: Float[Tensor, " g"]
) -> Float[Tensor, "b h"]:
    """Returns standardised features and, behind them, their squares less one."""
    x = ((features - means) / spreads).clamp(-_FURTHEST, _FURTHEST)
    return torch.cat([x, x.square() - 1], dim=1)
