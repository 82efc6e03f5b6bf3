"""Face photographs to 3D face meshes with physically meaningful appearance, on Ray."""

import os

__version__ = "0.1.0"

# OpenMP, which PyTorch's operations use, reads this when torch is loaded. By default its threads spin for some ms
# until the next operation and take the core that the second part of a kernel needs: with 33025 vertices two threads
# render no faster than one. Spinning for less costs PyTorch nothing; not at all, a quarter to all of its time.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
