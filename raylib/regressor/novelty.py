"""How strange a picture looks to what was trained on synthetic faces, and how far it is to be believed then."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

_LOOKS = 60  # main directions that tell the trend of the errors what a picture looks like
_MIN_OUTSIDE = 1e-3  # mean square below which its logarithm would say more than there is to it


@dataclass(frozen=True)
class OutOfDistributionScore:
    """Distance of pictures from those of the training, 0 for what is usual there and 1 for the mean photograph.

    The distance is that of Moghaddam and Pentland ("Probabilistic visual learning for object representation", PAMI
    1997): what the main directions of the training's features leave of a picture's. Noise in what is found in a
    picture is taken to grow with it. Trained in closed form (`training.regressor.cascade.strangeness`).

    Attributes:
        basis: main directions of the cascade's features on synthetic faces, orthonormal columns.
        usual: mean square of a feature outside of them, synthetic faces.
        unit: by how much photographs exceed it on average.
        noise: variance of the noise in a photograph's identity over that of the identity, on average.
    """

    basis: Float[Tensor, "f r"]
    usual: Float[Tensor, ""]
    unit: Float[Tensor, ""]
    noise: Float[Tensor, ""]

    @staticmethod
    def none() -> OutOfDistributionScore:
        """Returns one to which every picture is usual."""
        return OutOfDistributionScore(torch.zeros(0, 0), torch.zeros(()), torch.ones(()), torch.zeros(()))

    def to(self, device: torch.device | str) -> OutOfDistributionScore:
        """Returns it on a device."""
        return OutOfDistributionScore(*(t.to(device) for t in (self.basis, self.usual, self.unit, self.noise)))

    def __call__(self, features: Float[Tensor, "b f"]) -> tuple[Float[Tensor, "b 1"], Float[Tensor, "b l"]]:
        """Returns how strange pictures are, and what they look like: the distance's logarithm, and main directions.

        Args:
            features: what the cascade's last step looked at, standardised.
        """
        if not len(self.basis):
            return features.new_zeros(len(features), 1), features[:, :0]
        inside = features @ self.basis
        outside = features.square().sum(1, keepdim=True) - inside.square().sum(1, keepdim=True)
        outside = outside / features.shape[1]
        looks = torch.cat([outside.clamp(min=_MIN_OUTSIDE).log(), inside[:, :_LOOKS]], dim=1)
        return ((outside - self.usual) / self.unit).clamp(min=0), looks

    def shrinkage(self, strange: Float[Tensor, "b 1"]) -> Float[Tensor, "b 1"]:
        """Returns the share of an identity to believe, 0 to 1: signal over signal and noise (Wiener)."""
        return 1 / (1 + self.noise * strange)
