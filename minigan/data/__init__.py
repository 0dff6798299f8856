"""Datasets, samplers and the loader; `minigan.utils.data` is the same under PyTorch's name."""

from minigan.data.catalog import check_data, open_data
from minigan.data.collate import default_collate, default_convert
from minigan.data.dataset import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset, random_split
from minigan.data.files.check import CheckReport, DataError
from minigan.data.glyphs import glyphs, stacked_glyphs
from minigan.data.loader import DataLoader
from minigan.data.points import PointData, grid, ring, swiss_roll
from minigan.data.sampler import BatchSampler, RandomSampler, Sampler, SequentialSampler

__all__ = [
    "BatchSampler", "CheckReport", "ConcatDataset", "DataError", "DataLoader", "Dataset", "IterableDataset",
    "PointData", "RandomSampler", "Sampler", "SequentialSampler", "Subset", "TensorDataset", "check_data",
    "default_collate", "default_convert", "glyphs", "grid", "open_data", "random_split", "ring", "stacked_glyphs",
    "swiss_roll",
]  # fmt: skip
