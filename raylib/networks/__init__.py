"""Network modules; nothing but `nn.Module` classes."""
