"""A pretended accelerator, for machines that have none: code that would fail on a GPU fails here.

    with Accelerator():
        found = code(x.to(DEVICE))          # tensors, modules and whole pipelines move there as they would to "cuda"
    assert torch.equal(near(found), code(x))

Its tensors name `DEVICE` as their device and hold their numbers on the CPU. Like those of a GPU they cannot be mixed with tensors of the CPU (except numbers
without dimensions, and indices that lie on the CPU), do not become numpy arrays, and are not drawn with a generator of the CPU. `offloads` are what people with
little memory do to a pipeline; the hooks are those of accelerate and diffusers themselves.

    @pytest.mark.parametrize("offload", offloads)
    def test_offloaded(offload):
        with Accelerator():
            found = code(offloads[offload](make_pipeline()))
"""

from collections.abc import Callable
from contextlib import ExitStack
from unittest import mock

import torch
from diffusers.hooks import group_offloading
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

# "meta" is the one device besides the CPU that every build of torch can name. Without an index it is what it always is: shapes without numbers, as sequential
# offload leaves them behind.
DEVICE = torch.device("meta", 0)
_MADE = (torch.tensor, torch.as_tensor, torch.asarray)  # they fill a tensor on the CPU and move it where no mode can see it


class FarTensor(torch.Tensor):
    """A tensor of the pretended accelerator; `held` has its numbers."""

    @staticmethod
    def __new__(cls, held: torch.Tensor, requires_grad: bool | None = None):
        if requires_grad is not None:  # accelerate calls a parameter's class so
            return torch.nn.Parameter(held, requires_grad)
        far = torch.Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype, device=DEVICE,
        )  # fmt: skip
        far.held = held
        return far

    def __repr__(self):
        return f"FarTensor({self.held})"

    def numpy(self, *_, **__):
        raise TypeError(f"can't convert {DEVICE} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first.")

    def __array__(self, *_, **__):
        return self.numpy()

    def tolist(self):
        return self.held.tolist()

    def new_tensor(self, data, **options):
        return torch.as_tensor(data, **{"dtype": self.dtype, "device": self.device, **options}).clone()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _is_there(device) -> bool:
    return torch.device(device) == DEVICE


def _run(func, args, kwargs):
    name = func.name().removeprefix("aten::")
    flat = tree_flatten((args, kwargs))[0]
    far, others = ([a for a in flat if isinstance(a, torch.Tensor) and isinstance(a, FarTensor) == there] for there in (True, False))
    if far and not name.startswith(("_to_copy", "copy_")):
        if name.startswith(("index.", "index_put", "_index_put", "_unsafe_index")):
            others = [] if isinstance(args[0], FarTensor) else others
        clash = [t for t in others if t.ndim or t.is_meta]
        if clash:
            raise RuntimeError(f"Expected all tensors to be on the same device, but found at least two devices, {DEVICE} and {clash[0].device}! (in {name})")
    wanted = kwargs.get("device")
    there = isinstance(args[0], FarTensor) if name.startswith("copy_") else bool(far) if wanted is None else _is_there(wanted)
    if there and any(isinstance(a, torch.Generator) for a in flat):
        raise RuntimeError(f"Expected a {str(DEVICE)!r} device type for generator but found 'cpu'")

    def bring(a):
        return a.held if isinstance(a, FarTensor) else torch.device("cpu") if isinstance(a, torch.device) and _is_there(a) else a

    def take(a):
        return own[id(a)] if id(a) in own else FarTensor(a) if there and isinstance(a, torch.Tensor) else a

    own = {id(t.held): t for t in far}  # an operation in place gives back the very tensor
    return tree_map(take, func(*tree_map(bring, args), **tree_map(bring, kwargs)))


class _Made(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in _MADE and kwargs.get("device") is not None and _is_there(kwargs["device"]):
            return func(*args, **{**kwargs, "device": None}).to(DEVICE)
        return func(*args, **kwargs)


def _swap(tensor: torch.Tensor, moved: torch.Tensor):
    torch.utils.swap_tensors(tensor, torch.nn.Parameter(moved, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else moved)


class Accelerator(TorchDispatchMode):
    """While it is open, `DEVICE` can be moved to."""

    def __enter__(self):
        with ExitStack() as stack:
            stack.enter_context(_Made())
            stack.enter_context(mock.patch.object(torch, "get_device_module", lambda device=None: mock.MagicMock()))
            # Group offload writes into `.data`, which a tensor of ours cannot take; what it does for torchao's tensors, which cannot either, fits.
            stack.enter_context(mock.patch.object(group_offloading, "_is_torchao_tensor", lambda tensor: True))
            stack.enter_context(mock.patch.object(group_offloading, "_swap_torchao_tensor", _swap))
            self.opened = stack.pop_all()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.opened.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def near(x):
    """A tensor's numbers on the CPU, wherever it lies."""
    return x.detach().held if isinstance(x, FarTensor) else x


def _grouped(level: str) -> Callable:
    def offload(pipe):
        pipe.enable_group_offload(onload_device=DEVICE, offload_device=torch.device("cpu"), offload_type=level, num_blocks_per_group=1)
        return pipe

    return offload


def _model(pipe):
    pipe.enable_model_cpu_offload(device=DEVICE)
    return pipe


def _sequential(pipe):
    pipe.enable_sequential_cpu_offload(device=DEVICE)
    return pipe


# What people do to a pipeline that does not fit: each takes one and gives it back.
offloads: dict[str, Callable] = {
    "model": _model,
    "sequential": _sequential,
    "group, leaves": _grouped("leaf_level"),
    "group, blocks": _grouped("block_level"),
}
