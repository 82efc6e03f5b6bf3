"""What `jobs/benchmark.py` measures. Beside render and losses the only code to run PyTorch3D, for comparison."""
