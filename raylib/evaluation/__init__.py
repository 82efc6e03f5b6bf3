"""How well reconstructions agree with known faces: what `jobs/evaluate.py shape` and `appearance` run."""
