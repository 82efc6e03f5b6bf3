"""How well reconstructed shapes agree with scans."""
