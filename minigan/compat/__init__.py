"""Running scripts that were written for PyTorch."""
