"""Optimisers, and learning-rate schedules in `minigan.optim.lr_scheduler`."""

from minigan.optim import lr_scheduler
from minigan.optim.optimizer import Optimizer
from minigan.optim.rules import SGD, Adagrad, Adam, AdamW, RMSprop

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "Optimizer", "RMSprop", "lr_scheduler"]
