"""Datasets, samplers, collation and the loader."""

import gc
import threading
import time
from collections import OrderedDict, namedtuple

import numpy as np
import pytest

import minigan as mg
from minigan.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    default_collate,
    default_convert,
    random_split,
)


class Numbers(Dataset):
    """0 … n-1; loading the item `bad` fails; later items load faster, so that threads finish out of order."""

    def __init__(self, n, bad=None, delay=0.0):
        self.n, self.bad, self.delay = n, bad, delay
        self.threads = set()

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        self.threads.add(threading.current_thread().name)
        time.sleep(self.delay * (self.n - i))
        if i == self.bad:
            raise OSError("corrupt image")
        return i


class Stream(IterableDataset):
    def __init__(self, n):
        self.n = n

    def __iter__(self):
        return iter(range(self.n))


def batches(loader):
    return [x.tolist() for x in loader]


def data_threads():
    return [t for t in threading.enumerate() if t.name.startswith("minigan-data")]


# Datasets --------------------------------------------------------------------------------------------------


def test_tensor_dataset():
    data = TensorDataset(mg.arange(6).reshape(3, 2), mg.tensor([5, 6, 7]))
    assert len(data) == 3
    x, y = data[-1]
    assert (x.tolist(), y.item()) == ([4, 5], 7)
    with pytest.raises(AssertionError, match=r"Size mismatch between tensors: their first axes are \[3, 2\]"):
        TensorDataset(mg.zeros(3), mg.zeros(2))


def test_subset_and_concat():
    data = ConcatDataset([Numbers(3), Subset(Numbers(10), [9, 7]), Numbers(1)])
    assert [data[i] for i in range(len(data))] == [0, 1, 2, 9, 7, 0]
    assert [data[i] for i in (-1, -2, -6)] == [0, 7, 0]
    with pytest.raises(ValueError, match="index 6 is outside a dataset of 6 items"):
        data[6]
    with pytest.raises(AssertionError, match="at least one"):
        ConcatDataset([])
    with pytest.raises(AssertionError, match="IterableDataset"):
        ConcatDataset([Stream(2)])


def test_random_split():
    mg.manual_seed(3)
    parts = random_split(range(10), [7, 3])
    assert [len(part) for part in parts] == [7, 3]
    items = [part[i] for part in parts for i in range(len(part))]
    assert sorted(items) == list(range(10))
    assert items != list(range(10))
    mg.manual_seed(3)
    assert [list(part.indices) for part in random_split(range(10), [7, 3])] == [list(p.indices) for p in parts]
    assert [len(part) for part in random_split(range(10), [0.33, 0.33, 0.34])] == [4, 3, 3]
    with pytest.raises(ValueError, match="Sum of input lengths"):
        random_split(range(10), [5, 4])
    with pytest.raises(ValueError, match="Fraction at index 0"):
        random_split(range(10), [1.5, -0.5])
    with pytest.warns(UserWarning, match="split 1 is 0"):
        random_split(range(2), [0.9, 0.1])


def test_bases_say_what_is_missing():
    with pytest.raises(NotImplementedError, match="Dataset has no __getitem__"):
        Dataset()[0]
    with pytest.raises(NotImplementedError, match="IterableDataset has no __iter__"):
        iter(IterableDataset())


# Samplers --------------------------------------------------------------------------------------------------


def test_samplers():
    assert list(SequentialSampler(range(3))) == [0, 1, 2]
    assert sorted(RandomSampler(range(50))) == list(range(50))
    assert list(RandomSampler(range(50))) != list(range(50))
    seven = list(RandomSampler(range(3), num_samples=7))
    assert [sorted(seven[:3]), sorted(seven[3:6]), len(seven)] == [[0, 1, 2], [0, 1, 2], 7]
    many = list(RandomSampler(range(3), replacement=True, num_samples=200))
    assert (set(many), len(many)) == ({0, 1, 2}, 200)
    assert list(BatchSampler("abcde", 2, True)) == [["a", "b"], ["c", "d"]]
    assert [len(BatchSampler(range(n), 2, drop)) for n in (4, 5) for drop in (False, True)] == [2, 2, 3, 2]


def test_sampler_errors():
    with pytest.raises(ValueError, match="num_samples"):
        RandomSampler([])
    with pytest.raises(TypeError, match="replacement"):
        RandomSampler([1], replacement=1)
    for size in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="batch_size"):
            BatchSampler([1], size, False)
    with pytest.raises(ValueError, match="drop_last"):
        BatchSampler([1], 1, 0)


# Collation -------------------------------------------------------------------------------------------------


def test_collate_numbers_and_arrays():
    for batch, dtype in [
        ([1, 2], mg.int64), ([1.5, 2.0], mg.float64), ([True, False], mg.bool),
        ([np.float32(1), np.float32(2)], mg.float32), ([np.int32(1), np.int32(2)], mg.int32),
        ([np.bool(True)], mg.bool), ([np.ones(3, np.uint8)] * 2, mg.uint8), ([mg.ones(2), mg.zeros(2)], mg.float32),
    ]:  # fmt: skip
        out = default_collate(batch)
        assert out.dtype == dtype
        assert out.tolist() == [b.tolist() if hasattr(b, "tolist") else b for b in batch]
        assert out.device == mg.zeros(1).device


def test_collate_structures():
    Pair = namedtuple("Pair", "image label")
    out = default_collate([Pair(mg.ones(2), {"name": "a", "n": 1}), Pair(mg.zeros(2), {"name": "b", "n": 2})])
    assert type(out) is Pair
    assert out.image.tolist() == [[1, 1], [0, 0]]
    assert out.label["name"] == ["a", "b"]
    assert out.label["n"].tolist() == [1, 2]
    assert type(default_collate([OrderedDict(a=1)])) is OrderedDict
    out = default_collate([(1, [2.0, b"x"]), (3, [4.0, b"y"])])
    assert out[0].tolist() == [1, 3]
    assert out[1][0].tolist() == [2.0, 4.0]
    assert out[1][1] == [b"x", b"y"]


def test_collate_errors():
    with pytest.raises(RuntimeError, match=r"equal size, got lengths \[1, 2\]"):
        default_collate([(1,), (1, 2)])
    with pytest.raises(TypeError, match="found NoneType"):
        default_collate([None])
    with pytest.raises(RuntimeError):
        default_collate([mg.zeros(2), mg.zeros(3)])
    with pytest.raises(RuntimeError):
        default_collate([np.zeros(2), np.zeros(3)])


def test_convert():
    out = default_convert({"a": np.ones(2), "b": (np.float32(1), "s"), "c": None})
    assert out["a"].tolist() == [1, 1]
    assert out["b"][0].dtype == mg.float32
    assert (out["b"][1], out["c"]) == ("s", None)


# The loader --------------------------------------------------------------------------------------------------

workers = pytest.mark.parametrize("num_workers", [0, 1, 3])


@workers
def test_batches_in_order(num_workers):
    data = Numbers(10, delay=0.0005)
    loader = DataLoader(data, batch_size=4, num_workers=num_workers)
    for _ in range(2):
        assert batches(loader) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(loader) == 3
    loader = DataLoader(data, batch_size=4, num_workers=num_workers, drop_last=True)
    assert batches(loader) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert len(loader) == 2
    assert {name.startswith("minigan-data") for name in data.threads} == {num_workers > 0}
    assert not data_threads()


@workers
def test_shuffling_repeats_with_the_seed(num_workers):
    loader = DataLoader(Numbers(20), batch_size=7, shuffle=True, num_workers=num_workers)
    mg.manual_seed(5)
    first, second = batches(loader), batches(loader)
    mg.manual_seed(5)
    assert [batches(loader), batches(loader)] == [first, second]
    assert first != second
    assert sorted(sum(first, [])) == list(range(20))
    mg.manual_seed(5)
    assert batches(DataLoader(Numbers(20), batch_size=7, shuffle=True)) == first  # whatever the number of threads
    own = [DataLoader(Numbers(20), 7, True, generator=mg.Generator().manual_seed(1)) for _ in range(2)]
    assert batches(own[0]) == batches(own[1])


@workers
def test_samplers_and_unbatched(num_workers):
    assert batches(DataLoader(Numbers(5), 2, sampler=[4, 2, 0], num_workers=num_workers)) == [[4, 2], [0]]
    loader = DataLoader(Numbers(5), batch_sampler=[[1], [2, 3]], num_workers=num_workers)
    assert batches(loader) == [[1], [2, 3]]
    assert len(loader) == 2
    loader = DataLoader(Numbers(3), batch_size=None, num_workers=num_workers)
    assert list(loader) == [0, 1, 2]
    assert len(loader) == 3
    loader = DataLoader(Numbers(4), 2, collate_fn=lambda samples: tuple(samples), num_workers=num_workers)
    assert list(loader) == [(0, 1), (2, 3)]


@workers
def test_iterable_datasets(num_workers):
    loader = DataLoader(Stream(7), batch_size=3, num_workers=num_workers)
    for _ in range(2):
        assert batches(loader) == [[0, 1, 2], [3, 4, 5], [6]]
    assert batches(DataLoader(Stream(7), 3, drop_last=True, num_workers=num_workers)) == [[0, 1, 2], [3, 4, 5]]
    assert batches(DataLoader(Stream(6), 3, num_workers=num_workers)) == [[0, 1, 2], [3, 4, 5]]
    assert list(DataLoader(Stream(2), batch_size=None, num_workers=num_workers)) == [0, 1]
    with pytest.raises(TypeError):
        len(loader)
    assert not data_threads()


@workers
def test_an_exception_names_the_item(num_workers):
    loader = DataLoader(Numbers(10, bad=5), batch_size=2, num_workers=num_workers)
    seen = []
    with pytest.raises(OSError, match="corrupt image") as caught:
        seen.extend(batch.tolist() for batch in loader)
    assert seen == [[0, 1], [2, 3]]
    assert caught.value.__notes__ == ["DataLoader: while loading item 5"]
    assert not data_threads()


@workers
def test_an_exception_in_collation_names_the_items(num_workers):
    loader = DataLoader([mg.zeros(2), mg.zeros(3)], batch_size=2, num_workers=num_workers)
    with pytest.raises(RuntimeError) as caught:
        next(iter(loader))
    assert "DataLoader: while collating the items [0, 1]" in caught.value.__notes__


def test_leaving_early_ends_the_threads():
    data = Numbers(1000)
    for batch in DataLoader(data, batch_size=2, num_workers=2, prefetch_factor=3):
        if batch.tolist()[0] >= 4:
            break
    gc.collect()
    assert not data_threads()
    assert next(iter(DataLoader(data, num_workers=2))).tolist() == [0]
    assert not data_threads()


def test_no_more_is_read_ahead_than_asked():
    read = []
    data = [0] * 100

    class Counted(Dataset):
        def __len__(self):
            return len(data)

        def __getitem__(self, i):
            read.append(i)
            return i

    loop = iter(DataLoader(Counted(), num_workers=2, prefetch_factor=3))
    next(loop)
    deadline = time.monotonic() + 5
    while len(read) < 7 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    assert len(read) == 7  # the one that was taken and 2 · 3 ahead
    del loop


def test_workers_load_at_the_same_time():
    meeting = threading.Barrier(2, timeout=10)

    class Meets(Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, i):
            meeting.wait()  # returns only when two threads are here
            return i

    assert batches(DataLoader(Meets(), num_workers=2)) == [[0], [1], [2], [3]]


def test_worker_init_fn_is_called_in_each_thread():
    called = []
    meeting = threading.Barrier(2, timeout=10)

    def init(worker):
        called.append((worker, threading.current_thread().name))
        meeting.wait()

    list(DataLoader(Numbers(8), num_workers=2, worker_init_fn=init))
    assert {worker for worker, _ in called} == {0, 1}
    assert len({name for _, name in called}) == 2


def test_timeout():
    release = threading.Event()

    class Stuck(Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, i):
            release.wait(10)
            return i

    try:
        with pytest.raises(RuntimeError, match="timed out after 0.05 seconds"):
            next(iter(DataLoader(Stuck(), num_workers=1, timeout=0.05)))
    finally:
        release.set()


@pytest.mark.parametrize(
    "options",
    [
        {"num_workers": -1},
        {"timeout": -1},
        {"prefetch_factor": 2},
        {"persistent_workers": True},
        {"num_workers": 1, "prefetch_factor": -1},
        {"sampler": [0], "shuffle": True},
        {"batch_sampler": [[0]], "shuffle": True},
        {"batch_sampler": [[0]], "batch_size": 2},
        {"batch_sampler": [[0]], "drop_last": True},
        {"batch_size": None, "drop_last": True},
        {"batch_size": 0},
    ],
)
def test_option_errors(options):
    with pytest.raises(ValueError, match=r"\w"):
        DataLoader(Numbers(3), **options)


@pytest.mark.parametrize("options", [{"shuffle": True}, {"sampler": [0]}, {"batch_sampler": [[0]]}])
def test_iterable_datasets_have_their_own_order(options):
    with pytest.raises(ValueError, match="IterableDataset"):
        DataLoader(Stream(3), **options)


def test_a_gan_scripts_loop():
    data = TensorDataset(mg.randn(10, 3, 4, 4), mg.arange(10))
    loader = DataLoader(data, batch_size=4, shuffle=True, num_workers=2, pin_memory=True, drop_last=True)
    done = 0
    for i, (images, labels) in enumerate(loader, 1):
        assert images.shape == (4, 3, 4, 4)
        assert labels.dtype == mg.int64
        np.testing.assert_array_equal(images[1].cpu().numpy(), data[labels[1].item()][0].cpu().numpy())
        done = i
    assert done == 2
    assert len(loader.dataset) == 10
