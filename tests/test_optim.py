"""Optimisers against textbook loops in NumPy, and the promises about groups, state, memory and errors."""

import copy
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigan as mg
from minigan import optim
from minigan.kernels.cpu import optim as kernels
from minigan.kernels.cpu import workers
from minigan.optim import lr_scheduler

SHAPES = [(3, 4), (), (5,), (2, 0), (2, 3, 2, 2), (1,)]


def values(x):
    return x.detach().cpu().numpy().copy()


def parameters(shapes=SHAPES, dtype=mg.float64, seed=0):
    random = np.random.default_rng(seed)
    return [mg.tensor(random.normal(size=shape), dtype=dtype, requires_grad=True) for shape in shapes]


def give_gradients(params, seed=0):
    """Set gradients, and return them."""
    random = np.random.default_rng(seed)
    host = [np.asarray(random.normal(size=p.shape), p.dtype) for p in params]
    for p, g in zip(params, host, strict=True):
        p.grad = mg.tensor(g)
    return host


# The formulas, a parameter at a time, in the order of the papers ------------------------------------------


def sgd(w, g, s, t, lr=1e-3, momentum=0, dampening=0, weight_decay=0, nesterov=False, maximize=False):
    g = (-g if maximize else g) + weight_decay * w
    if momentum:
        s["b"] = g if t == 1 else momentum * s["b"] + (1 - dampening) * g
        g = g + momentum * s["b"] if nesterov else s["b"]
    return w - lr * g


def adam(w, g, s, t, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, amsgrad=False, maximize=False):
    g = (-g if maximize else g) + weight_decay * w
    s["m"] = betas[0] * s.get("m", 0) + (1 - betas[0]) * g
    s["v"] = betas[1] * s.get("v", 0) + (1 - betas[1]) * g**2
    s["top"] = np.maximum(s.get("top", 0), s["v"])
    m_hat = s["m"] / (1 - betas[0] ** t)
    v_hat = (s["top"] if amsgrad else s["v"]) / (1 - betas[1] ** t)
    return w - lr * m_hat / (np.sqrt(v_hat) + eps)


def adamw(w, g, s, t, lr=1e-3, weight_decay=1e-2, **options):
    return adam(w, g, s, t, lr, **options) - lr * weight_decay * w


def rmsprop(w, g, s, t, lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0, momentum=0, centered=False, maximize=False):
    g = (-g if maximize else g) + weight_decay * w
    s["v"] = alpha * s.get("v", 0) + (1 - alpha) * g**2
    s["mean"] = alpha * s.get("mean", 0) + (1 - alpha) * g
    h = g / (np.sqrt(s["v"] - (s["mean"] ** 2 if centered else 0)) + eps)
    s["b"] = momentum * s.get("b", 0) + h
    return w - lr * s["b"]


def adagrad(w, g, s, t, lr=1e-2, lr_decay=0, weight_decay=0, initial_accumulator_value=0, eps=1e-10, maximize=False):
    g = (-g if maximize else g) + weight_decay * w
    s["sum"] = s.get("sum", initial_accumulator_value) + g**2
    return w - lr / (1 + (t - 1) * lr_decay) * g / (np.sqrt(s["sum"]) + eps)


CASES = [
    (optim.SGD, sgd, {}),
    (optim.SGD, sgd, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    (optim.SGD, sgd, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True, "weight_decay": 0.1}),
    (optim.Adam, adam, {}),
    (optim.Adam, adam, {"lr": 2e-4, "betas": (0.5, 0.999)}),
    (optim.Adam, adam, {"lr": 0.1, "betas": (0, 0.9), "amsgrad": True, "weight_decay": 0.1, "maximize": True}),
    (optim.AdamW, adamw, {}),
    (optim.AdamW, adamw, {"lr": 0.1, "weight_decay": 0.5, "amsgrad": True, "eps": 1e-3, "maximize": True}),
    (optim.RMSprop, rmsprop, {}),
    (optim.RMSprop, rmsprop, {"alpha": 0.9, "momentum": 0.5, "centered": True, "weight_decay": 0.1}),
    (optim.RMSprop, rmsprop, {"momentum": 0.9, "eps": 1e-2, "maximize": True}),
    (optim.RMSprop, rmsprop, {"centered": True}),
    (optim.Adagrad, adagrad, {}),
    (optim.Adagrad, adagrad, {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.5, "weight_decay": 0.1}),
    (optim.Adagrad, adagrad, {"maximize": True, "eps": 1e-3}),
]
ids = [f"{cls.__name__}-{'-'.join(options) or 'defaults'}" for cls, _, options in CASES]
every_case = pytest.mark.parametrize(("cls", "formula", "options"), CASES, ids=ids)
every_class = pytest.mark.parametrize("cls", [optim.SGD, optim.Adam, optim.AdamW, optim.RMSprop, optim.Adagrad])
MOMENTUM = {optim.SGD: {"momentum": 0.9}}  # so that SGD, too, has state


class Textbook:
    """Twin of an optimiser: one parameter at a time, skipping those without a gradient."""

    def __init__(self, params, formula, options):
        self.params, self.formula, self.options = params, formula, options
        self.w = [values(p) for p in params]
        self.states = [{} for _ in params]
        self.t = [0] * len(params)

    def step(self):
        for i, p in enumerate(self.params):
            if p.grad is not None:
                self.t[i] += 1
                g = values(p.grad)
                self.w[i] = self.formula(self.w[i], g, self.states[i], self.t[i], **self.options)

    def check(self, rtol=1e-12):
        for p, w in zip(self.params, self.w, strict=True):
            np.testing.assert_allclose(values(p), w, rtol=rtol, atol=rtol, equal_nan=False)


# The rules -------------------------------------------------------------------------------------------------


@every_case
def test_five_steps(cls, formula, options):
    params = parameters()
    ours, twin = cls(params, **options), Textbook(params, formula, options)
    for step in range(5):
        give_gradients(params, step)
        twin.step()
        ours.step()
        twin.check()


@every_case
@given(presence=st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=5))
def test_parameters_without_gradient_stand_still(cls, formula, options, presence):
    params = parameters()
    ours, twin = cls(params, **options), Textbook(params, formula, options)
    for step, present in enumerate(presence):
        give_gradients(params, step)
        for p, keep in zip(params, present, strict=True):
            p.grad = p.grad if keep else None
        twin.step()
        ours.step()
    twin.check()
    if cls is not optim.SGD:
        counted = [int(ours.state[p]["step"]) if p in ours.state else 0 for p in params]
        assert counted == twin.t


@every_case
def test_chunks_of_any_size(cls, formula, options, monkeypatch):
    for chunk in (1, 7, 20, 10**6):
        monkeypatch.setattr(kernels, "CHUNK", chunk)
        params = parameters([(3, 5), (20,), (), (7,), (14,), (0,)])
        ours, twin = cls(params, **options), Textbook(params, formula, options)
        for step in range(3):
            give_gradients(params, step)
            twin.step()
            ours.step()
        twin.check()


def test_more_values_than_a_chunk():
    params = parameters([(kernels.CHUNK + 3,), (kernels.CHUNK - 1,), (5,)], dtype=mg.float32)
    ours, twin = optim.Adam(params), Textbook(params, adam, {})
    for step in range(2):
        give_gradients(params, step)
        twin.step()
        ours.step()
    twin.check(rtol=2e-6)


@every_case
def test_the_same_bits_on_any_number_of_threads(cls, formula, options, monkeypatch):
    monkeypatch.setattr(kernels, "CHUNK", 1000)
    found = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(workers, "_threads", threads)
        params = parameters([(70, 50), (9,), (1501,)], dtype=mg.float32)
        ours = cls(params, **options)
        for step in range(2):
            give_gradients(params, step)
            ours.step()
        found.append([values(p) for p in params])
    for others in found[1:]:
        for first, other in zip(found[0], others, strict=True):
            np.testing.assert_array_equal(first, other)


@every_class
def test_mixed_dtypes_in_a_group(cls):
    kinds = [mg.float32, mg.float64, mg.float16, mg.float64, mg.float32]
    params = [parameters([(4,)], kind, i)[0] for i, kind in enumerate(kinds)]
    exact = [p.detach().double().requires_grad_() for p in params]
    together, apart = cls(params, lr=0.1), cls(exact, lr=0.1)
    for step in range(3):
        for p, q in zip(params, exact, strict=True):
            (g,) = give_gradients([p], step)
            q.grad = mg.tensor(g).double()
        together.step()
        apart.step()
    for p, q, kind in zip(params, exact, kinds, strict=True):
        assert p.dtype == kind
        tolerance = {"float16": 5e-3, "float32": 1e-6, "float64": 1e-15}[str(kind)]
        np.testing.assert_allclose(values(p), values(q), atol=tolerance, rtol=tolerance)
        assert all(s.dtype == kind for name, s in together.state[p].items() if name != "step")


@every_class
def test_any_memory_order(cls):
    plain = parameters([(2, 3, 4, 5), (4, 3)])
    odd = [
        plain[0].detach().permute(0, 2, 3, 1).clone().contiguous().permute(0, 3, 1, 2).requires_grad_(),
        mg.tensor(values(plain[1]).T.copy()).T.detach().requires_grad_(),
    ]
    assert not any(p.is_contiguous() for p in odd)
    a, b = cls(plain, lr=0.1, **MOMENTUM.get(cls, {})), cls(odd, lr=0.1, **MOMENTUM.get(cls, {}))
    for step in range(2):
        for p, q, g in zip(plain, odd, give_gradients(plain, step), strict=True):
            q.grad = mg.tensor(np.ascontiguousarray(g.T)).T  # C order where the parameter is not, and the other way
            p.grad = mg.tensor(g)
        a.step()
        b.step()
    for p, q in zip(plain, odd, strict=True):
        np.testing.assert_array_equal(values(p), values(q))
        assert not q.is_contiguous()


def test_numpy_numbers_as_options_keep_float32():
    (p,) = parameters([(3,)], mg.float32)
    give_gradients([p])
    optim.Adam([p], lr=np.float64(0.1), betas=(np.float64(0.5), np.float64(0.9)), weight_decay=np.float64(0.1)).step()
    assert p.dtype == mg.float32


def test_a_constant_gradient_under_centered_rmsprop_stays_finite():
    (p,) = parameters([(50,)], mg.float32)
    (g,) = give_gradients([p])
    ours = optim.RMSprop([p], lr=1e-6, alpha=0.5, centered=True)
    for _ in range(60):  # the variance is 0 up to rounding, which may fall on either side
        ours.step()
    assert np.isfinite(values(p)).all()


# Memory ----------------------------------------------------------------------------------------------------


@every_class
def test_parameters_keep_their_memory(cls):
    params = parameters()
    arrays = [p.array for p in params]
    alias = params[0].detach()
    view = params[0].detach()[1:]
    tied = [params[0], params[2]]
    snapshot = {"weight": params[0].detach()}  # as a state_dict taken before
    ours = cls(params, lr=0.1)
    give_gradients(params)
    before = values(params[0])
    ours.step()
    assert all(p.array is a for p, a in zip(params, arrays, strict=True))
    assert not np.array_equal(values(params[0]), before)
    for other in (alias, snapshot["weight"], tied[0]):
        np.testing.assert_array_equal(values(other), values(params[0]))
    np.testing.assert_array_equal(values(view), values(params[0])[1:])


@every_class
def test_gradients_are_left_alone(cls):
    params = parameters()
    host = give_gradients(params)
    cls(params, lr=0.1, weight_decay=0.1, maximize=True).step()
    for p, g in zip(params, host, strict=True):
        np.testing.assert_array_equal(values(p.grad), g)


@every_class
def test_a_step_counts_as_an_in_place_change(cls):
    w, idle = parameters([(3,), (3,)])
    ours = cls([w, idle], lr=0.1)
    loss = (w * w).sum()
    give_gradients([w])
    ours.step()
    assert (w._version, idle._version) == (1, 0)
    with pytest.raises(RuntimeError, match=f"modified by an inplace operation.*last changed by {cls.__name__}.step"):
        loss.backward()


def test_state_is_a_view_of_what_the_next_step_uses():
    (p,) = parameters([(3,)])
    ours = optim.SGD([p], lr=1.0, momentum=1.0)
    p.grad = mg.ones(3, dtype=mg.float64)
    ours.step()
    kept = ours.state_dict()["state"][0]["momentum_buffer"]
    ours.state[p]["momentum_buffer"].fill_(10.0)
    assert kept.tolist() == [10.0] * 3
    before = values(p)
    ours.step()
    np.testing.assert_array_equal(before - values(p), [11.0] * 3)
    assert kept.tolist() == [11.0] * 3
    ours.state[p]["momentum_buffer"] = mg.zeros(3, dtype=mg.float64)  # given anew: copied in
    before = values(p)
    ours.step()
    np.testing.assert_array_equal(before - values(p), [1.0] * 3)
    del ours.state[p]  # forgotten: starts afresh
    before = values(p)
    ours.step()
    np.testing.assert_array_equal(before - values(p), [1.0] * 3)


# State dicts -----------------------------------------------------------------------------------------------


def test_structure_of_a_state_dict():
    params = parameters([(2,), (3,), (4,)])
    ours = optim.Adam([{"params": params[:1], "lr": 0.5}, {"params": params[1:]}], betas=(0.5, 0.9))
    give_gradients(params[1:])
    ours.step()
    saved = ours.state_dict()
    assert set(saved) == {"state", "param_groups"}
    assert set(saved["state"]) == {1, 2}  # nothing is kept of a parameter that has not moved
    assert set(saved["state"][1]) == {"step", "exp_avg", "exp_avg_sq"}
    assert saved["state"][2]["step"].item() == 1.0
    assert saved["state"][2]["exp_avg"].shape == (4,)
    assert [group["params"] for group in saved["param_groups"]] == [[0], [1, 2]]
    assert [group["lr"] for group in saved["param_groups"]] == [0.5, 1e-3]
    assert saved["param_groups"][0]["betas"] == (0.5, 0.9)


def test_plain_sgd_keeps_no_state():
    params = parameters()
    ours = optim.SGD(params)
    give_gradients(params)
    ours.step()
    assert ours.state_dict()["state"] == {}


@every_case
def test_resumed_equals_uninterrupted_to_the_bit(cls, formula, options):
    params = parameters()
    ours = cls(params, **options)
    for step in range(3):
        give_gradients(params, step)
        params[1].grad = None if step == 1 else params[1].grad
        ours.step()
    resumed_params = [p.detach().clone().requires_grad_() for p in params]
    resumed = cls(resumed_params)  # its options come from the state dict
    resumed.load_state_dict(ours.state_dict())
    for step in range(3, 5):
        give_gradients(params, step)
        give_gradients(resumed_params, step)
        ours.step()
        resumed.step()
    for p, q in zip(params, resumed_params, strict=True):
        np.testing.assert_array_equal(values(p), values(q))


def test_loading_copies():
    params, others = parameters([(2,)]), parameters([(2,)])
    ours, theirs = optim.Adam(params), optim.Adam(others)
    give_gradients(params)
    give_gradients(others)
    ours.step()
    theirs.load_state_dict(ours.state_dict())
    ours.step()
    assert [ours.state[params[0]]["step"].item(), theirs.state[others[0]]["step"].item()] == [2, 1]
    assert theirs.state[others[0]]["exp_avg"].tolist() != ours.state[params[0]]["exp_avg"].tolist()


def test_loading_refuses_other_structures():
    ours = optim.Adam(parameters([(2,), (3,)]))
    give_gradients(ours.param_groups[0]["params"])
    ours.step()
    saved = ours.state_dict()
    with pytest.raises(ValueError, match=r"parameter groups of \[2\] parameters, this optimizer of \[1\]"):
        optim.Adam(parameters([(2,)])).load_state_dict(saved)
    with pytest.raises(ValueError, match=r"'exp_avg' of parameter 1 has shape \(3,\), the parameter \(4,\)"):
        optim.Adam(parameters([(2,), (4,)])).load_state_dict(saved)


def test_adamw_decays_decoupled_whatever_it_loads():
    saved = optim.Adam(parameters([(2,)]), weight_decay=0.1).state_dict()
    ours = optim.AdamW(parameters([(2,)]))
    ours.load_state_dict(saved)
    assert ours.param_groups[0]["decoupled_weight_decay"] is True


def test_through_a_file(tmp_path):
    params = parameters([(2, 3), (4,)])
    ours = optim.Adam(params, lr=0.1)
    give_gradients(params)
    ours.step()
    mg.save(ours.state_dict(), tmp_path / "adam.safetensors")
    others = [p.detach().clone().requires_grad_() for p in params]
    loaded = optim.Adam(others)
    loaded.load_state_dict(mg.load(tmp_path / "adam.safetensors"))
    for p, q in zip(params, others, strict=True):
        q.grad = p.grad
    ours.step()
    loaded.step()
    for p, q in zip(params, others, strict=True):
        np.testing.assert_array_equal(values(p), values(q))


def test_deep_copy_is_independent():
    params = parameters([(2,), (3,)])
    ours = optim.Adam(params)
    give_gradients(params)
    ours.step()
    twin = copy.deepcopy(ours)
    (before,) = (values(p) for p in params[:1])
    twin.step()
    np.testing.assert_array_equal(values(params[0]), before)
    ours.step()
    for p, q in zip(params, twin.param_groups[0]["params"], strict=True):
        np.testing.assert_array_equal(values(p), values(q))


def test_state_follows_parameters_that_change_dtype_or_are_given_anew():
    params = parameters([(3,), (2,)], mg.float32)
    ours = optim.Adam(params, lr=0.1)
    give_gradients(params)
    ours.step()
    for p in params:
        p.data = p.data.double()
    twin_params = [p.detach().clone().requires_grad_() for p in params]
    twin = optim.Adam(twin_params, lr=0.1)
    twin.load_state_dict(ours.state_dict())
    host = give_gradients(params, 1)
    for q, g in zip(twin_params, host, strict=True):
        q.grad = mg.tensor(g)
    ours.step()
    twin.step()
    assert ours.state[params[0]]["exp_avg"].dtype == mg.float64
    for p, q in zip(params, twin_params, strict=True):
        np.testing.assert_array_equal(values(p), values(q))


# Groups, gradients, closures ----------------------------------------------------------------------------------


def test_groups_have_options_of_their_own():
    a, b, c = parameters([(2,), (2,), (2,)])
    ours = optim.SGD([{"params": [a], "lr": 0.5}, {"params": b}], lr=0.1)
    ours.add_param_group({"params": (x for x in [c]), "lr": 2.0, "weight_decay": 1.0})
    twins = [Textbook([a], sgd, {"lr": 0.5}), Textbook([b], sgd, {"lr": 0.1})]
    twins.append(Textbook([c], sgd, {"lr": 2.0, "weight_decay": 1.0}))
    give_gradients([a, b, c])
    for twin in twins:
        twin.step()
    ours.step()
    for twin in twins:
        twin.check()
    ours.param_groups[1]["lr"] = 0.0
    before = values(b)
    ours.step()
    np.testing.assert_array_equal(values(b), before)


def test_zero_grad():
    params = parameters()
    ours = optim.SGD(params)
    ours.zero_grad()
    give_gradients(params)
    grad = params[0].grad
    ours.zero_grad(set_to_none=False)
    assert params[0].grad is grad
    assert not any(values(p.grad).any() for p in params)
    ours.zero_grad()
    assert all(p.grad is None for p in params)


def test_closure_runs_with_gradients():
    (w,) = parameters([(3,)])
    ours = optim.SGD([w], lr=0.5)

    def closure():
        ours.zero_grad()
        loss = (w * w).sum()
        loss.backward()
        return loss

    expected = float((values(w) ** 2).sum())
    with mg.no_grad():
        loss = ours.step(closure)
    assert loss.item() == pytest.approx(expected, rel=1e-14)
    assert not values(w).any()
    assert ours.step() is None


def test_repr_lists_the_options():
    text = repr(optim.SGD([{"params": parameters([(2,)])}, {"params": parameters([(2,)]), "lr": 0.5}], lr=0.1))
    assert text.startswith("SGD (\nParameter Group 0\n")
    assert "Parameter Group 1" in text
    assert "    lr: 0.5" in text


def test_errors():
    w = parameters([(2,)])[0]
    with pytest.raises(ValueError, match="empty parameter list"):
        optim.SGD([])
    with pytest.raises(TypeError, match="got a Tensor"):
        optim.SGD(w)
    with pytest.raises(TypeError, match="one of the params is int"):
        optim.SGD([w, 3])
    with pytest.raises(TypeError, match="got a set"):
        optim.SGD([{"params": {w}}])
    with pytest.raises(ValueError, match="non-leaf"):
        optim.SGD([w * 2])
    with pytest.raises(ValueError, match="more than once"):
        optim.SGD([w, w])
    with pytest.raises(ValueError, match="more than one parameter group"):
        optim.SGD([{"params": [w]}, {"params": [w]}])
    with pytest.raises(TypeError, match="expected a dict, got list"):
        optim.SGD([w]).add_param_group([w])
    with pytest.raises(NotImplementedError, match="Plain has no step"):
        type("Plain", (optim.Optimizer,), {})([w], {}).step()


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (optim.SGD, {"lr": -1}, "Invalid learning rate: -1"),
        (optim.SGD, {"momentum": -1}, "Invalid momentum value: -1"),
        (optim.SGD, {"weight_decay": -0.5}, "Invalid weight_decay value: -0.5"),
        (optim.SGD, {"nesterov": True}, "Nesterov momentum requires a momentum and zero dampening"),
        (optim.SGD, {"nesterov": True, "momentum": 0.5, "dampening": 0.5}, "Nesterov"),
        (optim.Adam, {"lr": math.nan}, "Invalid learning rate: nan"),
        (optim.Adam, {"eps": -1e-8}, "Invalid epsilon value"),
        (optim.Adam, {"betas": (1.0, 0.9)}, "Invalid beta parameter at index 0: 1.0"),
        (optim.AdamW, {"betas": (0.5, -0.1)}, "Invalid beta parameter at index 1: -0.1"),
        (optim.RMSprop, {"alpha": -1}, "Invalid alpha value: -1"),
        (optim.Adagrad, {"lr_decay": -1}, "Invalid lr_decay value: -1"),
        (optim.Adagrad, {"initial_accumulator_value": -1}, "Invalid initial_accumulator_value value: -1"),
    ],
)
def test_invalid_options(cls, options, message):
    with pytest.raises(ValueError, match=message):
        cls(parameters([(2,)]), **options)


@pytest.mark.parametrize("data", [mg.zeros(3, dtype=mg.float64), mg.zeros(2)], ids=["shape", "dtype"])
def test_a_gradient_that_no_longer_fits(data):
    (w,) = parameters([(2,)])
    w.grad = mg.zeros_like(w)
    w.data = data
    with pytest.raises(RuntimeError, match=r"SGD: a parameter .* has a gradient of shape \(2,\), float64"):
        optim.SGD([w]).step()


# Schedules ---------------------------------------------------------------------------------------------------


def run(make, epochs=12, lr=0.8):
    """The rates of a schedule, epoch by epoch."""
    ours = optim.SGD(parameters([(2,)]), lr=lr)
    schedule = make(ours)
    rates = []
    for _ in range(epochs):
        rates.append(ours.param_groups[0]["lr"])
        assert schedule.get_last_lr() == rates[-1:]
        ours.step()
        schedule.step()
    return rates


CLOSED_FORMS = {
    "step": (lambda o: lr_scheduler.StepLR(o, 3, 0.5), lambda e: 0.5 ** (e // 3)),
    "multistep": (lambda o: lr_scheduler.MultiStepLR(o, [2, 5, 5], 0.5), lambda e: 0.5 ** ((e >= 2) + 2 * (e >= 5))),
    "exponential": (lambda o: lr_scheduler.ExponentialLR(o, 0.9), lambda e: 0.9**e),
    "cosine": (lambda o: lr_scheduler.CosineAnnealingLR(o, 4), lambda e: (1 + math.cos(math.pi * e / 4)) / 2),
    "lambda": (lambda o: lr_scheduler.LambdaLR(o, lambda e: 1 / (1 + e)), lambda e: 1 / (1 + e)),
    "linear": (lambda o: lr_scheduler.LinearLR(o, 0.25, 0.5, 4), lambda e: 0.25 + 0.25 * min(e, 4) / 4),
    "constant": (lambda o: lr_scheduler.ConstantLR(o, 0.25, 3), lambda e: 0.25 if e < 3 else 1),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_schedule(name):
    make, closed_form = CLOSED_FORMS[name]
    np.testing.assert_allclose(run(make), [0.8 * closed_form(e) for e in range(12)], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_resumed_schedule(name):
    make, _ = CLOSED_FORMS[name]
    expected = run(make)
    ours = optim.SGD(parameters([(2,)]), lr=0.8)
    schedule = make(ours)
    for _ in range(5):
        ours.step()
        schedule.step()
    resumed = optim.SGD(parameters([(2,)]), lr=0.3)
    again = make(resumed)
    again.load_state_dict(schedule.state_dict())
    resumed.load_state_dict(ours.state_dict())
    rates = []
    for _ in range(7):
        rates.append(resumed.param_groups[0]["lr"])
        resumed.step()
        again.step()
    np.testing.assert_array_equal(rates, expected[5:])


def test_schedules_chain():
    ours = optim.SGD(parameters([(2,)]), lr=1.0)
    schedules = [lr_scheduler.ExponentialLR(ours, 0.5), lr_scheduler.StepLR(ours, 2, 0.1)]
    rates = []
    for _ in range(4):
        rates.append(ours.param_groups[0]["lr"])
        ours.step()
        for schedule in schedules:
            schedule.step()
    np.testing.assert_allclose(rates, [1.0, 0.5, 0.025, 0.0125], rtol=1e-12)


def test_a_lambda_for_each_group():
    a, b = parameters([(2,), (2,)])
    ours = optim.SGD([{"params": [a], "lr": 1.0}, {"params": [b], "lr": 2.0}])
    schedule = lr_scheduler.LambdaLR(ours, [lambda e: e + 1, lambda e: 0.5])
    assert schedule.get_last_lr() == [1.0, 1.0]
    assert [group["initial_lr"] for group in ours.param_groups] == [1.0, 2.0]
    ours.step()
    schedule.step()
    assert schedule.get_last_lr() == [2.0, 1.0]
    with pytest.raises(ValueError, match="Expected 2 lr_lambdas"):
        lr_scheduler.LambdaLR(ours, [lambda e: 1])


def test_the_state_of_callable_objects_is_saved():
    class Decay:
        def __init__(self, rate):
            self.rate = rate

        def __call__(self, epoch):
            return self.rate**epoch

    ours = optim.SGD(parameters([(2,)]), lr=1.0)
    saved = lr_scheduler.LambdaLR(ours, Decay(0.5)).state_dict()
    assert saved["lr_lambdas"] == [{"rate": 0.5}]
    other = lr_scheduler.LambdaLR(ours, Decay(0.1))
    other.load_state_dict(saved)
    assert other.lr_lambdas[0].rate == 0.5


def test_the_order_of_steps():
    ours = optim.SGD(parameters([(2,)]), lr=1.0)
    schedule = lr_scheduler.StepLR(ours, 2)
    with pytest.warns(UserWarning, match="before `optimizer.step"):
        schedule.step()
    schedule.step()  # said once


def test_schedule_errors():
    ours = optim.SGD(parameters([(2,)]), lr=1.0)
    with pytest.raises(TypeError, match="list is not an Optimizer"):
        lr_scheduler.StepLR([], 2)
    with pytest.raises(KeyError, match="initial_lr"):
        lr_scheduler.StepLR(ours, 2, last_epoch=3)
    with pytest.raises(ValueError, match="greater than 0"):
        lr_scheduler.LinearLR(ours, start_factor=0.0)
    with pytest.raises(ValueError, match="Ending"):
        lr_scheduler.LinearLR(ours, end_factor=1.5)
    with pytest.raises(ValueError, match="between 0 and 1"):
        lr_scheduler.ConstantLR(ours, factor=2.0)
