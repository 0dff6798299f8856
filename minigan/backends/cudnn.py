"""`cudnn.benchmark = True` and its like are accepted; there is no cuDNN here, so they change nothing."""

enabled = True
benchmark = False
deterministic = False
allow_tf32 = True
