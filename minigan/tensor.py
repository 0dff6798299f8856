"""The Tensor: an array on a backend, its place in the graph, and PyTorch's methods.

The functions of `minigan.ops` become methods in `minigan.methods`; what is written out here is what only
makes sense on a Tensor: its properties, conversions, in-place changes and Python's protocols.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minigan import autograd, dtypes, graph
from minigan.backend import Array, Backend, device, get_backend
from minigan.check import fitting, new_shape
from minigan.graph import Node, RemovableHandle, Version, changed, hook_handle, place, wrap
from minigan.graphs import refuse
from minigan.inplace import assign, follow
from minigan.methods import Methods
from minigan.ops import index, memory, shape


class Tensor(Methods):
    """An n-dimensional array that can be differentiated. `Tensor(2, 3)` and `Tensor([…])` make float32 ones.

    >>> import minigan as mg
    >>> x = mg.tensor([1.0, 2.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad
    tensor([2., 4.])
    """

    __slots__ = (
        "B",  # the Backend
        "__weakref__",
        "_grad",
        "array",  # the raw array: NumPy's, CuPy's
        "base",  # the tensor this one views, if any …
        "hooks",
        "made_by",  # … the (op, other inputs, parameters) of that view …
        "node",  # the Node that made it; None for a leaf
        "seen",  # … and the recorded version of the memory that `node` stands for
        "tracked",  # `requires_grad`, as of `seen`
        "version",
    )
    __array_ufunc__ = None  # so that `numpy_scalar * tensor` comes to `__rmul__`

    array: Array
    B: Backend
    node: Node | None
    tracked: bool
    version: Version
    base: Tensor | None
    _grad: Tensor | None
    hooks: dict[int, Callable] | None
    made_by: tuple
    seen: int

    def __init__(self, *data: Any, device: Any = None) -> None:
        from minigan.legacy import legacy_array

        B = get_backend(device)
        self._become(B.asarray(legacy_array(data, dtypes.get_default_dtype())), B)

    def _become(self, array: Array, B: Backend) -> None:
        """Set every field, for a new leaf around `array`."""
        self.array, self.B = array, B
        self.node = self.base = self._grad = self.hooks = None
        self.tracked = False
        self.version = Version()

    # What it is -----------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """The size of each axis."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        """The element type."""
        return self.array.dtype

    @property
    def device(self) -> device:
        """Where it lives."""
        return self.B.device

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.array.ndim

    @property
    def is_leaf(self) -> bool:
        """Whether no recorded operation made it."""
        return self.grad_fn is None

    @property
    def requires_grad(self) -> bool:
        """Whether gradients flow to it or through it."""
        self._fresh()
        return self.tracked

    @requires_grad.setter
    def requires_grad(self, requires_grad: bool) -> None:
        self.requires_grad_(requires_grad)

    @property
    def grad_fn(self) -> Node | None:
        """The recorded operation that made it."""
        self._fresh()
        return self.node

    @property
    def is_cuda(self) -> bool:
        """Whether it is on a GPU."""
        return self.B.device.type == "cuda"

    @property
    def itemsize(self) -> int:
        """Bytes per value."""
        return self.array.dtype.itemsize

    @property
    def _version(self) -> int:
        return self.version.count

    def size(self, dim: int | None = None) -> Any:
        """The shape, or the size of one axis."""
        return self.array.shape if dim is None else self.array.shape[shape.axis(dim, self.ndim, "size")]

    def dim(self) -> int:
        """The number of axes."""
        return self.array.ndim

    def numel(self) -> int:
        """The number of values."""
        return int(self.array.size)

    nelement = numel

    def element_size(self) -> int:
        """Bytes per value."""
        return self.array.dtype.itemsize

    def stride(self, dim: int | None = None) -> Any:
        """Values (not bytes) from one entry of an axis to the next."""
        steps = tuple(s // self.array.dtype.itemsize for s in self.array.strides)
        return steps if dim is None else steps[shape.axis(dim, self.ndim, "stride")]

    def is_contiguous(self, memory_format: Any = None) -> bool:
        """Whether the memory is in C order (or channels-last order, if asked)."""
        order = self.array.transpose(0, 2, 3, 1) if str(memory_format) == "channels_last" else self.array
        return bool(order.flags.c_contiguous)

    def is_floating_point(self) -> bool:
        """Whether the values are floats."""
        return self.array.dtype.kind == "f"

    def data_ptr(self) -> int:
        """The address of the first value."""
        return self.array.ctypes.data if isinstance(self.array, np.ndarray) else self.array.data.ptr

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("len() of a 0-d tensor")
        return self.array.shape[0]

    def __repr__(self) -> str:
        values = self.B.to_numpy(self.array)
        text = np.array2string(values, separator=", ", prefix="tensor(", precision=4, threshold=1000)
        if not values.size:
            text = "[]" + (f", size={self.shape}" if self.ndim != 1 else "")
        if self.dtype not in (dtypes.get_default_dtype(), dtypes.int64, dtypes.bool):
            text += f", dtype={self.dtype}"
        if self.B.device.type != "cpu":
            text += f", device='{self.device}'"
        if (node := self.grad_fn) is not None:
            text += f", grad_fn=<{node.name()}>"
        elif self.tracked:
            text += ", requires_grad=True"
        return f"tensor({text})"

    # Differentiation -------------------------------------------------------------------------------

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Ask for gradients of this leaf, or stop asking."""
        if self.grad_fn is not None and not requires_grad:
            raise RuntimeError(
                "requires_grad_(False) works on leaf tensors only; use .detach() for the result of an op"
            )
        if requires_grad and self.array.dtype.kind != "f":
            raise RuntimeError(f"only floating tensors can require gradients, this one is {self.dtype}")
        self.tracked = bool(requires_grad)
        return self

    @property
    def grad(self) -> Tensor | None:
        """What the backward sweeps so far have added up for this leaf; None if nothing, or after zeroing."""
        return self._grad

    @grad.setter
    def grad(self, grad: Tensor | None) -> None:
        if grad is not None:
            autograd._check_like(self, grad, "what is assigned to .grad")
        self._grad = grad

    def backward(
        self,
        gradient: Tensor | None = None,
        retain_graph: bool = False,
        create_graph: bool = False,
        inputs: Any = None,
    ) -> None:
        """Add this tensor's gradients to the `.grad` of the leaves (or of `inputs` only)."""
        autograd.backward([self], [gradient], retain_graph, create_graph, inputs)

    def detach(self) -> Tensor:
        """The same memory, outside the graph."""
        return wrap(self.array, self.B, None, self.version)

    def detach_(self) -> Tensor:
        """Leave the graph."""
        if self.base is not None:
            raise RuntimeError("detach_: a view cannot leave the graph that its base is in; use .detach()")
        self.node, self.tracked = None, False
        return self

    @property
    def data(self) -> Tensor:
        """The same memory, outside the graph. Changes through it are counted like any others."""
        return self.detach()

    @data.setter
    def data(self, new: Tensor) -> None:
        if not isinstance(new, Tensor):
            raise TypeError(f"assignment to .data: expected a Tensor, got {type(new).__name__}")
        self.array, self.B, self.version, self.base = new.array, new.B, new.version, None

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
        """Call `hook(gradient)` when this tensor's gradient is known; what it returns is used instead."""
        if not callable(hook):
            raise TypeError(f"register_hook: expected a function of the gradient, got {type(hook).__name__}")
        if not self.requires_grad:
            raise RuntimeError("cannot register a hook on a tensor that does not require gradients")
        return hook_handle(self.grad_fn or self, hook)

    def retain_grad(self) -> None:
        """Keep `.grad` of this tensor although it is not a leaf."""
        if self.grad_fn is not None:
            graph.retain(self)

    def _fresh(self) -> None:
        """Take this view's place in the graph anew, if its memory was changed through another tensor."""
        stale = []
        tensor = self
        while tensor.base is not None and tensor.seen != tensor.version.recorded:
            stale.append(tensor)
            tensor = tensor.base
        for tensor in reversed(stale):
            with autograd.enable_grad():
                node = follow(tensor.base, (tensor.made_by,)).node  # type: ignore[arg-type]  # has a base
            if tensor.tracked and tensor.node is None and node is not None:
                raise RuntimeError("the base of a view that is a leaf and requires grad was changed in place")
            if node is not None or tensor.node is not None:
                place(tensor, node)
            tensor.seen = tensor.version.recorded

    def _bump(self, by: str) -> None:
        """Note that the memory was changed, and by what."""
        self.version.count += 1
        self.version.by = by
        if changed.versions is not None:
            changed.versions.add(self.version)

    def _assign(self, new: Any, by: str) -> Tensor:
        return assign(self, new, by, made=True)

    # Conversions -----------------------------------------------------------------------------------

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        """On another device, in another dtype, or both: `to('cuda')`, `to(mg.float64)`, `to(other)`."""
        where, kind, copy = kwargs.get("device"), kwargs.get("dtype"), kwargs.get("copy", False)
        for arg in args:
            if isinstance(arg, Tensor):
                where, kind = arg.device, arg.dtype
            elif isinstance(arg, (str, device)):
                where = arg
            elif isinstance(arg, (np.dtype, type)) and not isinstance(arg, bool):
                kind = arg
            elif arg is not None and not isinstance(arg, bool):
                raise TypeError(f"to: expected a device, a dtype or a Tensor, got {arg!r}")
        out = self if where is None else memory.move(self, get_backend(where))
        out = out if kind is None else memory.cast(out, kind)
        return out.clone() if copy and out is self else out

    def cpu(self) -> Tensor:
        """On the CPU."""
        return self.to("cpu")

    def cuda(self, device: Any = None, non_blocking: bool = False) -> Tensor:
        """On a GPU."""
        return self.to("cuda" if device is None else f"cuda:{device}" if isinstance(device, int) else device)

    def pin_memory(self) -> Tensor:
        """Accepted for PyTorch's sake; memory is not pinned."""
        return self

    def type(self, dtype: Any = None, non_blocking: bool = False) -> Any:
        """The name of its type, or a copy of another type: a dtype, `mg.FloatTensor`, or its name."""
        from minigan.legacy import type_name, type_named

        if dtype is None:
            return type_name(self)
        kind, where = type_named(dtype)
        return self.to(dtype=kind, device=where)

    def type_as(self, other: Tensor) -> Tensor:
        """In the dtype, and on the device, of another tensor."""
        return self.to(other)

    def float(self) -> Tensor:
        """As float32."""
        return self.to(dtypes.float32)

    def double(self) -> Tensor:
        """As float64."""
        return self.to(dtypes.float64)

    def half(self) -> Tensor:
        """As float16."""
        return self.to(dtypes.float16)

    def int(self) -> Tensor:
        """As int32."""
        return self.to(dtypes.int32)

    def long(self) -> Tensor:
        """As int64."""
        return self.to(dtypes.int64)

    def byte(self) -> Tensor:
        """As uint8."""
        return self.to(dtypes.uint8)

    def bool(self) -> Tensor:
        """As bool."""
        return self.to(dtypes.bool)

    def numpy(self, *, force: Any = False) -> np.ndarray:
        """The NumPy array that shares this tensor's memory."""
        if force:
            return self.detach().cpu().numpy()
        if self.requires_grad:
            raise RuntimeError("can't call numpy() on a tensor that requires grad; use .detach().numpy()")
        return self._host("numpy()")

    def _host(self, what: str) -> np.ndarray:
        if not isinstance(self.array, np.ndarray):
            raise TypeError(f"{what}: this tensor is on {self.device!s}; copy it to the host first with .cpu()")
        return self.array

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        array = self.numpy()
        array = array if dtype is None else array.astype(dtype, copy=False)
        return array.copy() if copy else array

    def __dlpack__(self, **kwargs: Any) -> Any:
        if self.requires_grad:
            raise BufferError("a tensor that requires grad cannot be exported; use .detach()")
        return self.array.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()

    def item(self) -> Any:
        """The only value, as a Python number."""
        if self.array.size != 1:
            raise RuntimeError(f"item: a tensor with {self.array.size} values cannot become one number")
        refuse(self.B, "item(), or a number or truth value made of a tensor,")
        return self.array.item()

    def tolist(self) -> Any:
        """The values as nested lists of Python numbers."""
        refuse(self.B, "tolist()")
        return self.B.to_numpy(self.array).tolist()

    def __float__(self) -> Any:
        return float(self.item())

    def __int__(self) -> Any:
        return int(self.item())

    def __index__(self) -> Any:
        if self.dtype.kind not in "iu":
            raise TypeError(f"only integer tensors of one value can be used as an index, this one is {self.dtype}")
        return int(self.item())

    def __bool__(self) -> Any:
        if self.array.size != 1:
            raise RuntimeError(
                f"the truth of a tensor with {self.array.size} values is ambiguous; use .any() or .all()"
            )
        return bool(self.item())

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.ndim == 0 and spec else format(str(self), spec)

    def __iter__(self) -> Iterator[Tensor]:
        if not self.ndim:
            raise TypeError("iteration over a 0-d tensor")
        return iter(shape.unbind(self))

    def __contains__(self, value: Any) -> Any:
        return bool((self == value).any())

    def __deepcopy__(self, memo: dict) -> Tensor:
        if self.grad_fn is not None:
            raise RuntimeError("only leaf tensors can be deep-copied; .detach() the result of an operation first")
        copy = object.__new__(type(self))
        copy._become(self.B.xp.array(self.array), self.B)
        copy.tracked = self.tracked
        copy.grad = None if self.grad is None else self.grad.__deepcopy__(memo)
        copy.__dict__.update(getattr(self, "__dict__", {})) if hasattr(copy, "__dict__") else None
        memo[id(self)] = copy
        return copy

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("minigan does not pickle tensors; use minigan.save(...), which writes safetensors")

    # Making new ones like this ------------------------------------------------------------------------

    def new_tensor(self, data: Any, dtype: Any = None, device: Any = None, requires_grad: Any = False) -> Tensor:
        """A tensor of the data, on this one's device and in its dtype unless others are named."""
        from minigan.creation import tensor

        return tensor(data, dtype=dtype or self.dtype, device=device or self.device, requires_grad=requires_grad)

    def _new(self, fill: str, size: tuple, args: tuple, kwargs: dict) -> Tensor:
        B = get_backend(kwargs.get("device") or self.device)
        dtype = dtypes.checked_dtype(f"new_{fill}", kwargs.get("dtype") or self.dtype)
        value = (fitting("new_full", args[0], dtype).item(),) if args else ()
        array = getattr(B.xp, fill)(new_shape(size, f"new_{fill}"), *value, dtype)
        return wrap(array, B, None).requires_grad_(kwargs.get("requires_grad", False))

    def new_zeros(self, *size: Any, **kwargs: Any) -> Tensor:
        """Zeros of this dtype and device."""
        return self._new("zeros", size, (), kwargs)

    def new_ones(self, *size: Any, **kwargs: Any) -> Tensor:
        """Ones of this dtype and device."""
        return self._new("ones", size, (), kwargs)

    def new_empty(self, *size: Any, **kwargs: Any) -> Tensor:
        """Memory of this dtype and device."""
        return self._new("empty", size, (), kwargs)

    def new_full(self, size: Any, fill_value: Any, **kwargs: Any) -> Tensor:
        """One value of this dtype, on this device."""
        return self._new("full", (size,), (fill_value,), kwargs)

    def __setitem__(self, where: Any, value: Any) -> None:
        index.setitem(self, where, value)

    @property
    def T(self) -> Tensor:
        """The axes in reverse order."""
        return shape.permute(self, *range(self.ndim)[::-1])

    @property
    def mT(self) -> Tensor:
        """The last two axes swapped."""
        return shape.transpose(self, -2, -1)


graph.tensor_type = Tensor
