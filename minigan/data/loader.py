"""The DataLoader: batches of a dataset, read ahead by threads if asked."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import count, islice
from typing import Any

from minigan.data.collate import default_collate, default_convert
from minigan.data.dataset import IterableDataset
from minigan.data.sampler import BatchSampler, RandomSampler, SequentialSampler
from minigan.random import Generator


class DataLoader:
    """Batches of a dataset's samples. `shuffle` draws from `generator`, or from the stream of `manual_seed`.

    With `num_workers`, as many threads load up to `prefetch_factor` batches each ahead of the loop, which gets
    them in order. An IterableDataset is read by one thread. Random numbers that a dataset draws while several
    threads load are not repeatable. `pin_memory` and `persistent_workers` change nothing.

    >>> import minigan as mg
    >>> loader = DataLoader(mg.data.TensorDataset(mg.arange(5)), batch_size=2)
    >>> [x.tolist() for (x,) in loader]
    [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Iterable[Any] | None = None,
        batch_sampler: Iterable[Any] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[list], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        generator: Generator | None = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
    ) -> None:
        if num_workers < 0 or timeout < 0:
            raise ValueError(f"num_workers and timeout should be non-negative, got {num_workers} and {timeout}")
        if num_workers == 0 and (prefetch_factor is not None or persistent_workers):
            raise ValueError("prefetch_factor and persistent_workers need num_workers > 0")
        if prefetch_factor is not None and prefetch_factor < 1:
            raise ValueError(f"prefetch_factor should be positive, got {prefetch_factor}")
        self._iterable = isinstance(dataset, IterableDataset)
        if self._iterable and (shuffle or sampler is not None or batch_sampler is not None):
            raise ValueError("DataLoader with IterableDataset: expected no shuffle, sampler or batch_sampler option")
        if sampler is not None and shuffle:
            raise ValueError("sampler option is mutually exclusive with shuffle")
        if batch_sampler is not None:
            if batch_size != 1 or shuffle or sampler is not None or drop_last:
                raise ValueError(
                    "batch_sampler option is mutually exclusive with batch_size, shuffle, sampler and drop_last"
                )
            batch_size = None
        elif batch_size is None and drop_last:
            raise ValueError("batch_size=None turns batching off and is mutually exclusive with drop_last")
        if self._iterable:
            sampler = count()  # only how many it gives at a time matters
        elif sampler is None:
            sampler = RandomSampler(dataset, generator=generator) if shuffle else SequentialSampler(dataset)
        if batch_size is not None:
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        self.dataset, self.batch_size, self.drop_last = dataset, batch_size, drop_last
        self.sampler, self.batch_sampler, self.generator = sampler, batch_sampler, generator
        self.collate_fn = collate_fn or (default_convert if batch_sampler is None else default_collate)
        self.num_workers, self.prefetch_factor = num_workers, prefetch_factor or (2 if num_workers else None)
        self.timeout, self.worker_init_fn = timeout, worker_init_fn
        self.pin_memory, self.persistent_workers = pin_memory, persistent_workers

    def __len__(self) -> int:
        """The number of batches."""
        order: Any = self.sampler if self.batch_sampler is None else self.batch_sampler
        if not self._iterable:
            return len(order)
        samples = range(len(self.dataset))
        return len(samples if self.batch_size is None else BatchSampler(samples, self.batch_size, self.drop_last))

    def __iter__(self) -> Iterator[Any]:
        return _Batches(self)

    def _read(self) -> Iterator[Any]:
        keys = iter(self.sampler if self.batch_sampler is None else self.batch_sampler)
        load = self._reader() if self._iterable else self._load
        for batch in self._ahead(load, keys) if self.num_workers else map(load, keys):
            if batch is _END:
                return
            yield batch

    def _load(self, key: Any) -> Any:
        """The samples at a list of indices, collated; or the one sample at an index."""
        if self.batch_sampler is None:
            return self.collate_fn(self._sample(key))
        samples = [self._sample(index) for index in key]
        try:
            return self.collate_fn(samples)
        except Exception as error:
            error.add_note(f"DataLoader: while collating the items {list(key)}")
            raise

    def _sample(self, index: Any) -> Any:
        try:
            return self.dataset[index]
        except Exception as error:
            error.add_note(f"DataLoader: while loading item {index!r}")
            raise

    def _reader(self) -> Callable[[Any], Any]:
        """A function that reads on in an IterableDataset: as many samples as it is given indices, or one."""
        source = iter(self.dataset)

        def read(key: Any) -> Any:
            if self.batch_sampler is None:
                sample = next(source, _END)
                return sample if sample is _END else self.collate_fn(sample)
            samples = list(islice(source, len(key)))
            if not samples or (self.drop_last and len(samples) < len(key)):
                return _END
            return self.collate_fn(samples)

        return read

    def _ahead(self, load: Callable[[Any], Any], keys: Iterator[Any]) -> Iterator[Any]:
        """`map(load, keys)`, computed ahead of the loop by threads, in order."""
        from concurrent.futures import ThreadPoolExecutor  # not at the top: it would slow `import minigan`

        assert self.prefetch_factor is not None
        numbers = count()

        def begin() -> None:
            if self.worker_init_fn is not None:
                self.worker_init_fn(next(numbers))

        threads = 1 if self._iterable else self.num_workers
        pool = ThreadPoolExecutor(threads, "minigan-data", begin)
        stuck = False
        try:
            waiting = deque(pool.submit(load, key) for key in islice(keys, self.num_workers * self.prefetch_factor))
            while waiting:
                future = waiting.popleft()
                try:
                    batch = future.result(self.timeout or None)
                except TimeoutError:
                    stuck = not future.done()  # else it came from the dataset
                    if stuck:
                        raise RuntimeError(f"DataLoader timed out after {self.timeout} seconds") from None
                    raise
                waiting.extend(pool.submit(load, key) for key in islice(keys, 1))
                yield batch
        finally:  # also when the loop is left early
            pool.shutdown(wait=not stuck, cancel_futures=True)


_END: Any = object()


class _Batches:
    """What `iter(loader)` gives. As in PyTorch, its length is that of the loader, from the beginning to the end."""

    def __init__(self, loader: DataLoader) -> None:
        self._loader, self._batches = loader, loader._read()

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> _Batches:
        return self

    def __next__(self) -> Any:
        return next(self._batches)

    next = __next__  # its name in older scripts
