"""Names of some of the 68 landmarks in Multi-PIE / iBUG order."""

from __future__ import annotations

OUTER_EYE = (36, 45)
MOUTH_CORNERS = (48, 54)


ALIGNMENT_LANDMARKS = (36, 39, 42, 45, 33, 48, 54)
"""Eye corners, base of the nose and mouth corners among the 68 landmarks."""
NOSE_TIP = 30
