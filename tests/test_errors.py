"""What goes wrong is said in one clear line: what was given, what was expected, what to do.

Also in other files: `load_state_dict` (every wrong key at once) and the qualified names of layers in
test_module.py, changes in place in test_inplace.py, misuse of layers and losses in test_layers.py and
test_functional.py.
"""

import pytest

import minigan as mg
import minigan.testing.strict  # makes the device known
from minigan import nn

F = nn.functional
nan = float("nan")


def leaf(*data, dtype=mg.float64):
    return mg.tensor(list(data), dtype=dtype, requires_grad=True)


def test_backward_of_more_than_a_number():
    with pytest.raises(RuntimeError, match=r"scalar outputs.*\(2,\).*\.sum\(\)"):
        (leaf(1.0, 2.0) * 2).backward()


def test_backward_without_a_graph():
    with pytest.raises(RuntimeError, match="does not require grad"):
        mg.ones(1).backward()


def test_backward_twice():
    x = leaf(1.0)
    y = mg.exp(x)
    y.backward()
    with pytest.raises(RuntimeError, match=r"Exp.*freed.*detach\(\).*retain_graph=True"):
        y.backward()


def test_create_graph_on_backward_says_what_to_call():
    with pytest.raises(RuntimeError, match=r"autograd\.grad\(loss, inputs, create_graph=True\)"):
        leaf(1.0).backward(create_graph=True)


def test_gradient_of_the_wrong_shape():
    with pytest.raises(RuntimeError, match=r"gradient given.*of shape \(2,\).*got shape \(3,\)"):
        (leaf(1.0, 2.0) * 2).backward(mg.ones(3, dtype=mg.float64))


def test_mixed_float_dtypes_name_both():
    with pytest.raises(RuntimeError, match="float32 and float64"):
        mg.ones(2) + mg.ones(2, dtype=mg.float64)


def test_shapes_that_do_not_broadcast_name_both():
    with pytest.raises(RuntimeError, match=r"\(2,\).*\(3,\)"):
        mg.ones(2) + mg.ones(3)


def test_detect_anomaly_names_the_line():
    x = leaf(0.0)
    with mg.autograd.detect_anomaly():
        y = mg.sqrt(x) * 1  # the culprit
        with pytest.raises(RuntimeError, match=r"(?s)Sqrt: the gradient of input 0.*infinite.*# the culprit"):
            y.sum().backward()


def test_cuda_without_cupy_says_what_to_install():
    if mg.cuda.is_available():
        pytest.skip("a GPU is here: the message for machines without one cannot be shown")
    with pytest.raises(RuntimeError, match=r"device 'cuda'.*(CuPy|GPU)"):
        mg.ones(1, device="cuda")


def test_shape_mismatch_names_the_layer_and_both_shapes():
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(5, 2))
    with pytest.raises(
        RuntimeError,
        match=r"Linear\(in_features=5.*got input of shape \(2, 3\), expected .*5\); weight has shape \(2, 5\)",
    ) as caught:
        net(mg.ones(2, 4))
    assert caught.value.__notes__[0].startswith("in Sequential.1: Linear")
    with pytest.raises(RuntimeError, match=r"matmul: shapes \(2, 3\) and \(4, 3\).*3 columns against 4 rows"):
        mg.ones(2, 3) @ mg.ones(4, 3)


@pytest.mark.parametrize("dtype", [mg.float64, mg.int64])
def test_wrong_dtype_names_them_and_the_conversion(dtype):
    with pytest.raises(RuntimeError, match=rf"linear: expected .* one dtype, got {dtype}, float32.*\.to\(dtype\)"):
        nn.Linear(3, 2)(mg.ones(2, 3, dtype=dtype))
    with pytest.raises(RuntimeError, match=rf"conv2d: expected .* one dtype, got {dtype}, float32"):
        nn.Conv2d(1, 1, 3)(mg.ones(1, 1, 4, 4, dtype=dtype))


def test_an_integer_result_of_floats():
    with pytest.raises(RuntimeError, match="float32 cannot be written into a tensor of dtype int64"):
        mg.arange(3).add_(1.5)
    with pytest.raises(RuntimeError, match=r"mean: expected a floating dtype, got int64; convert with \.float\(\)"):
        mg.arange(3).mean()


@pytest.mark.parametrize(
    "call",
    [
        lambda x, y: x + y,
        lambda x, y: x @ y,
        lambda x, y: F.linear(x, y),
        lambda x, y: F.conv2d(x.reshape(1, 1, 2, 2), y.reshape(1, 1, 2, 2)),
        lambda x, y: mg.cat([x, y]),
        lambda x, y: mg.where(x > 0, y, y),
        lambda x, y: x < y,
        lambda x, y: x.masked_fill(y > 0, 1),
        lambda x, y: x[y.long()],
        lambda x, y: x.__setitem__(0, y[0]),
        lambda x, y: x.fill_(y[0, 0]),
        lambda x, y: x.requires_grad_().sum().backward(y.sum()),
        lambda x, y: setattr(x, "grad", y),
        lambda x, y: F.mse_loss(x, y),
        lambda x, y: nn.Linear(2, 2, device="cpu")(y),
    ],
)
def test_mixed_devices_name_both(call):
    x, y = mg.ones(2, 2, device="cpu"), mg.ones(2, 2, device="strict")
    with pytest.raises(RuntimeError, match=r"(cpu.*strict|strict.*cpu)"):
        call(x, y)


def test_a_convolution_with_nothing_to_give():
    with pytest.raises(RuntimeError, match="conv2d: input 8x8 with kernel 9x9.*empty output 0x0; use a smaller kernel"):
        nn.Conv2d(3, 8, 9)(mg.ones(1, 3, 8, 8))
    with pytest.raises(RuntimeError, match="conv_transpose2d: input 2x2.*empty output.*; use less padding"):
        nn.ConvTranspose2d(1, 1, 1, padding=3)(mg.ones(1, 1, 2, 2))
    with pytest.raises(RuntimeError, match=r"max_pool2d: input of shape \(1, 1, 4, 4\).*empty output"):
        F.max_pool2d(mg.ones(1, 1, 4, 4), 9)


def test_what_a_hook_returns():
    for wrong, kind, message in (
        (5.0, TypeError, "must be a Tensor, got float"),
        (mg.ones(3, dtype=mg.float64), RuntimeError, r".* of shape \(2,\).*got shape \(3,\)"),
        (mg.ones(2), RuntimeError, ".*dtype float64.*float32"),
    ):
        x = leaf(1.0, 2.0)
        x.register_hook(lambda g, wrong=wrong: wrong)
        with pytest.raises(kind, match=f"a gradient hook returns {message}"):
            (x * 2).sum().backward()
        assert x.grad is None


def test_what_is_assigned_to_grad():
    x = leaf(1.0, 2.0)
    for wrong, kind in ((3.0, TypeError), (mg.ones(3, dtype=mg.float64), RuntimeError), (mg.ones(2), RuntimeError)):
        with pytest.raises(kind, match=r"assigned to \.grad must be"):
            x.grad = wrong


def test_inputs_that_need_no_gradient():
    for call in (lambda y: mg.autograd.grad(y, mg.ones(1)), lambda y: y.backward(inputs=[mg.ones(1)])):
        with pytest.raises(
            RuntimeError, match=r"input 0, of shape \(1,\), does not require grad; call \.requires_grad_"
        ):
            call((leaf(1.0) * 2).sum())


def test_requires_grad_is_checked_by_assignment_too():
    with pytest.raises(RuntimeError, match="only floating tensors.*int64"):
        mg.arange(3).requires_grad = True
    with pytest.raises(RuntimeError, match="leaf tensors only"):
        (leaf(1.0) * 2).requires_grad = False


# Nonsense ------------------------------------------------------------------------------------------------

NONSENSE = """
mg.tensor(None) | mg.tensor("abc") | mg.tensor([1, [2]]) | mg.tensor([1, None]) | mg.tensor(1j) | mg.tensor({1: 2})
mg.tensor([1], dtype="foo") | mg.tensor([1], dtype=3) | mg.tensor([1], device="tpu")
mg.tensor([300], dtype=mg.uint8) | mg.tensor([nan], dtype=mg.int64) | mg.tensor([1], dtype="complex64") | mg.zeros(-1)
mg.zeros("a") | mg.zeros(2.5) | mg.zeros(nan) | mg.zeros(None) | mg.zeros(10**30) | mg.ones(2**62, 2**62)
mg.ones(3, dtype="x") | mg.full((2, -1), 1.0) | mg.full(2, "a") | mg.full((2,), None) | mg.arange("a")
mg.arange(nan) | mg.arange(float("inf")) | mg.arange(0, 5, 0) | mg.arange(5, 0, 1) | mg.arange(10**15)
mg.linspace(0, 1, -1) | mg.linspace("a", 1, 3) | mg.eye(-1) | mg.eye("a") | mg.rand(-1) | mg.rand(2, dtype=mg.int64)
mg.randn(2, generator=3) | mg.randint(nan, (2,)) | mg.randint(5, 2, (2,)) | mg.randint("a", (2,)) | mg.randperm(-1)
mg.randperm("a") | mg.normal(0, -1, (2,)) | mg.normal(v, mg.ones(2)) | mg.bernoulli(3)
mg.bernoulli(mg.tensor([2.0])) | mg.multinomial(v, -1) | mg.multinomial(v, 9) | mg.multinomial(3, 1)
mg.manual_seed("a") | mg.from_numpy([1]) | mg.from_dlpack(3) | mg.FloatTensor("abc") | mg.FloatTensor(-1) | mg.abs(-1)
mg.exp(3.0) | mg.exp(None) | mg.sum([1, 2]) | mg.mean(3) | mg.relu("a") | mg.add(1, 2) | mg.add(x, "a") | x + None
x * 1j | x / "2" | x @ 3 | x @ x | mg.matmul(x, None) | mg.mm(x, v) | mg.bmm(x, x) | mg.einsum("ij")
mg.einsum("ij,jk", x) | mg.einsum("i$", x) | mg.einsum("ijk", x) | mg.einsum(3, x) | mg.einsum("i...j...", x)
x.reshape(4) | x.reshape(-2, 3) | x.reshape("a") | x.reshape(-1, -1) | x.view(7, -1) | x.flatten(5) | x.squeeze("a")
x.unsqueeze(9) | x.expand(2, 4) | x.permute(0, 0) | x.transpose(0, "a") | x.movedim(0, 7) | x.flip("a")
x.roll(1.5, 0) | mg.cat([]) | mg.cat(3) | mg.cat([x, 3]) | mg.cat([x, mg.ones(3, 3, 3)]) | mg.stack([x, None])
x.split(0) | x.split("a") | x.split(2.5) | x.split([-1, 3]) | x.chunk(2.5) | x.narrow(0, "a", 1) | x.tile(-1)
x.repeat(-1, 2) | x.repeat_interleave(-1) | F.pad(x, (1,)) | F.pad(x, ("a", 1)) | F.pad(x, (-5, 0)) | F.pad(x, 3)
x[5] | x["a"] | x[1.5] | x[::-1] | x[True] | x[mg.tensor([1.5])] | x[mg.tensor([True])] | x[..., ...] | x[{}]
x.__setitem__(0, "a") | x.__setitem__(0, None) | x.__setitem__(0, mg.ones(2)) | x.__setitem__(mg.tensor([0]), None)
x.__setitem__(x > 0, "a") | x.__setitem__(0, 1j) | x.fill_(None) | x.fill_("a") | x.copy_(mg.ones(5)) | x.copy_(None)
x.gather(1, 3) | x.gather(1, mg.tensor([[9]])) | x.gather(1, mg.tensor([[-1]])) | x.index_select(0, mg.tensor([-1]))
x.index_select(0, v) | x.scatter(1, mg.tensor([[-1]]), 1.0) | x.scatter(1, mg.tensor([[0]])) | x.masked_select(3)
x.scatter_add(1, mg.tensor([[0]]), 3) | x.masked_fill(3, 1) | x.masked_fill(x > 0, None) | x.tril("a") | v.diagonal()
x.diagonal(0, 1, 1) | x.sum("a") | x.sum(1.5) | x.sum((0, 0)) | x.mean(7) | x.max("a") | mg.zeros(0).max()
x.argmax("a") | x.cumsum(None) | x.prod(9) | x.norm("foo") | x.softmax("a") | x.sort(9) | x.topk(9) | x.topk("a")
x.clamp() | x.clamp("a") | x.clamp(min=[1]) | x.clamp(nan) | mg.where(3, 1, 2) | mg.where(x > 0, x, None)
mg.maximum(1, 2) | mg.tensor([1]) // 0 | mg.tensor([1]) ** -1 | mg.tensor([1], dtype=mg.uint8) + 300 | x == mg.ones(5)
x < "a" | ~x | mg.isnan(3) | mg.equal(x, 3) | mg.allclose(x, mg.ones(5)) | x.to("foo") | x.to(3)
x.type("torch.FooTensor") | x.item() | x.stride(9) | x.register_hook(3) | x.backward() | mg.autograd.grad(None, None)
x.normal_("a") | x.normal_(0, -1) | x.uniform_(1, 0) | x.bernoulli_(2) | x.random_(5, 2) | x.random_("a")
x.new_zeros(-1) | x.new_full((2,), "a") | nn.Conv2d(3, 4, 2.5) | nn.Conv2d(3, 4, 3, groups=2) | nn.Dropout("a")
nn.Dropout(nan) | nn.Linear(3, 3)(x.long()) | nn.BCELoss()(v, None) | nn.NLLLoss()(x, 3) | F.relu(None)
F.softmax(x, 9) | nn.Embedding(3, 2)(mg.tensor([-1]))
"""


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("code", NONSENSE.strip().replace("\n", " | ").split(" | "))
def test_nonsense_is_refused_in_one_line(code):
    """By a line of our own: not a NumPy error without context, not a missing attribute, not a wrong result."""
    names = {"mg": mg, "nn": nn, "F": F, "nan": nan, "x": mg.ones(2, 3), "v": mg.ones(3)}
    with pytest.raises((RuntimeError, TypeError, ValueError, IndexError)) as caught:
        eval(code, names)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    assert len(message) < 300
    place = caught.traceback[-1]
    assert "minigan" in str(place.path), f"raised by {place.path}"
    assert any(str(line).strip().startswith("raise ") for line in place.statement.lines), f"{code}: {message}"
