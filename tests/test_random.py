"""Many numbers, drawn on all threads, are the stream's own."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import minigan as mg
from minigan import random
from minigan.kernels.cpu.workers import get_num_threads, set_num_threads


@pytest.fixture(params=[1, 2, 3], autouse=True)
def threads(request):
    before = get_num_threads()
    set_num_threads(request.param)
    yield
    set_num_threads(before)


@pytest.mark.parametrize("drawn", [0, 1, 2, 3, 7, 8, 13])
@pytest.mark.parametrize("count", [2 * random._PIECE, 3 * random._PIECE + 9, 5 * random._PIECE - 3])
def test_many_uniforms_are_those_of_the_stream(drawn, count):
    """Whatever was drawn before, also what comes after them, of any kind."""
    ours, numpys = mg.Generator().manual_seed(3), mg.Generator().manual_seed(3)
    plain = np.random.Generator(numpys._bits)
    for _ in range(2):
        np.testing.assert_array_equal(ours.uniform((drawn,)), plain.random(drawn, dtype=np.float32))
        np.testing.assert_array_equal(ours.uniform((count,)), plain.random(count, dtype=np.float32))
        assert ours.get_state()[-2] == numpys.get_state()[-2]
    np.testing.assert_array_equal(ours.normal((5,)), plain.standard_normal(5, dtype=np.float32))
    np.testing.assert_array_equal(ours.uniform((3,)), plain.random(3, dtype=np.float32))


def test_shapes_and_other_types_are_as_for_few():
    stream = mg.Generator().manual_seed(0)
    many = stream.uniform((3, random._PIECE))
    assert many.shape == (3, random._PIECE)
    assert many.dtype == np.float32
    assert stream.uniform((2, random._PIECE), np.float64).dtype == np.float64
    half = stream.uniform((2 * random._PIECE,), np.float16)
    assert half.dtype == np.float16
    assert half.max() < 1


def test_two_threads_never_draw_the_same():
    stream, count = mg.Generator().manual_seed(0), 2 * random._PIECE + 4
    with ThreadPoolExecutor(2) as pool:
        drawn = list(pool.map(lambda _: stream.uniform((count,)), range(8)))
    plain = np.random.Generator(mg.Generator().manual_seed(0)._bits).random(8 * count, dtype=np.float32)
    expected = sorted(part[100] for part in plain.reshape(8, count))
    np.testing.assert_array_equal(sorted(part[100] for part in drawn), expected)


def test_a_negative_size_leaves_the_stream_alone():
    stream = mg.Generator().manual_seed(0)
    before = stream.get_state()
    with pytest.raises(ValueError, match="negative"):
        stream.uniform((-512, -1024))
    np.testing.assert_array_equal(stream.get_state(), before)


def test_dropout_draws_them():
    mg.manual_seed(0)
    x = mg.ones(64, 128, 8, 8)
    kept = (mg.nn.functional.dropout(x, 0.3) > 0).float().mean().item()
    assert abs(kept - 0.7) < 0.005
