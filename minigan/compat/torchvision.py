"""The part of torchvision that GAN scripts use; `models` and `ops` are not here."""

__version__ = "0.19.0+minigan"
