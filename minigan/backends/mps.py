"""Scripts ask `torch.backends.mps.is_available()`; minigan runs on the CPU or on CUDA."""


def is_available() -> bool:
    """False: there is no backend for Apple's GPUs."""
    return False
