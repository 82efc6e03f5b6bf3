"""Rendering behind one interface: CPU kernels of our own and PyTorch3D."""
