"""CUDA C, one `.cu` for each operation with all its rungs, and what reads and launches it.

Nothing here imports CuPy: the same files run on a CPU through `minigan.kernels.emulator`.
"""
