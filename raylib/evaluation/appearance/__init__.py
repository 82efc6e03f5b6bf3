"""How well albedo, light and pictures agree with known ones."""
