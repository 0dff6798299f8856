"""Array kernels, one folder per device: raw arrays in, raw arrays out.

Nothing here knows about tensors, gradients or modules. `cpu` imports numpy only.
"""
