"""How numeric kernels are compiled and spread over threads."""
