"""What a generator's file is fed: latents as its metadata say, labels of every class in turn, psi."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np

from minigan.export.graph import Graph, OnnxError, Value
from minigan.random import Generator

Feeds = dict[str, np.ndarray]


def draw(graph: Graph, n: int, stream: str, seed: int = 0, psi: float = 1.0) -> Feeds:
    """n samples' inputs from a named stream: the same numbers on every machine."""
    return {
        value.name: _input(value, graph, n, Generator(name=stream).manual_seed(seed), psi) for value in graph.inputs
    }


def split(feeds: Feeds, size: int) -> Iterator[Feeds]:
    """The same in batches; psi, which has no batch, goes with each."""
    n = len(feeds["z"])
    for start in range(0, n, size):
        yield {name: x[start : start + size] if x.ndim else x for name, x in feeds.items()}


def _input(value: Value, graph: Graph, n: int, generator: Generator, psi: float) -> np.ndarray:
    if value.name == "psi":
        return np.array(psi, np.float32)
    if value.name == "labels":
        return (n + np.arange(n, dtype=np.int64)) % classes(graph)  # other first ones for another n, for the tracer
    if value.name != "z" or value.dtype != np.float32 or not all(isinstance(size, int) for size in value.shape[1:]):
        raise OnnxError(f"input {value.name} of {value.dtype} {value.shape}: expected z, labels or psi")
    shape = (n, *(int(size) for size in value.shape[1:]))
    if graph.metadata.get("latent_distribution") == "uniform":
        return 2 * generator.uniform(shape) - 1
    return generator.normal(shape)


def classes(graph: Graph) -> int:
    """How many classes the labels name."""
    try:
        return max(1, int(json.loads(graph.metadata["classes"])))
    except (KeyError, ValueError, TypeError):
        raise OnnxError("it has labels, but its metadata do not say how many classes there are") from None
