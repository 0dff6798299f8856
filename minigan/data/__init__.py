"""Datasets, samplers and the loader; `minigan.utils.data` is the same under PyTorch's name."""

from minigan.data.collate import default_collate, default_convert
from minigan.data.dataset import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset, random_split
from minigan.data.loader import DataLoader
from minigan.data.sampler import BatchSampler, RandomSampler, Sampler, SequentialSampler

__all__ = [
    "BatchSampler", "ConcatDataset", "DataLoader", "Dataset", "IterableDataset", "RandomSampler", "Sampler",
    "SequentialSampler", "Subset", "TensorDataset", "default_collate", "default_convert", "random_split",
]  # fmt: skip
