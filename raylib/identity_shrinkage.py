"""How far the identity that a cascade found in a picture is to be believed: less, the stranger the picture looks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class IdentityShrinkage:
    """Shrinks identities towards the mean face by the distance of their pictures from those of the training.

    The distance is that of Moghaddam and Pentland ("Probabilistic visual learning for object representation", PAMI
    1997): what the main directions of the training's features leave of a picture's. Beyond the usual distance, the
    noise in an identity is taken to grow with it, and Wiener's filter keeps signal over signal plus noise. Trained in
    closed form (`training.face_cascade.identity_shrinkage`).

    Attributes:
        basis: main directions of the cascade's features on synthetic faces, orthonormal columns.
        usual: mean distance of synthetic faces.
        rate: variance of the noise over that of the identity, for each unit of distance beyond the usual one.
    """

    basis: Float[Tensor, "f r"]
    usual: Float[Tensor, ""]
    rate: Float[Tensor, ""]

    @staticmethod
    def none() -> IdentityShrinkage:
        """Returns one that believes everything."""
        return IdentityShrinkage(torch.zeros(0, 0), torch.zeros(()), torch.zeros(()))

    def to(self, device: torch.device | str) -> IdentityShrinkage:
        """Returns it on a device."""
        return IdentityShrinkage(self.basis.to(device), self.usual.to(device), self.rate.to(device))

    def beyond_usual(self, features: Float[Tensor, "b f"]) -> Float[Tensor, " b"]:
        """Returns the mean square of features outside the main directions, as far as it is above the usual one."""
        outside = features.square().sum(1) - (features @ self.basis).square().sum(1)
        return (outside / features.shape[1] - self.usual).clamp(min=0)

    def __call__(self, features: Float[Tensor, "b f"]) -> Float[Tensor, "b 1"]:
        """Returns the share of each identity that is kept, above 0 and at most 1.

        Args:
            features: what the cascade's last step looked at, standardised.
        """
        if not len(self.basis):
            return features.new_ones(len(features), 1)
        return 1 / (1 + self.rate * self.beyond_usual(features))[:, None]
