"""A GPU that is none: its tensors lie in the CPU's memory, and refuse what those of a real one refuse.

So placement faults show on machines without a GPU: tensors of two devices in one operation, a generator of another
device, ``numpy()`` of a tensor that is not on the CPU. All numbers are the CPU's, so that what is computed here can be
compared with a run on the CPU. What a GPU's kernels round otherwise, and how fast they are, it does not show.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

aten = torch.ops.aten
_TAKES_INDICES_OF_THE_CPU = (
    aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default,
)  # fmt: skip
_MOVES = (aten.copy_.default, aten._to_copy.default, aten.set_.source_Tensor)
_JOINS = (aten.cat.default, aten.stack.default)  # they take no number of the CPU either
_WAITS = (aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default)


class Seen:
    """What happened on the simulated GPU, by the line of the package that asked for it.

    Attributes:
        waits: how often the CPU waited for a number of the GPU's.
        doubles: how often numbers of float64 were computed there, of which consumer cards do few and Apple's none.
    """

    def __init__(self) -> None:
        self.on = False
        self.waits: Counter[str] = Counter()
        self.doubles: Counter[str] = Counter()


seen = Seen()


class _Hook(torch._C._acc.PrivateUse1Hooks):
    """Tells torch that the device is there only while a test uses it: others choose a device by that."""

    def is_available(self) -> bool:
        return seen.on

    def is_built(self) -> bool:
        return True

    def has_primary_context(self, device: int) -> bool:
        return True


class _Module:
    """What torch asks of the module of a device; its random numbers are the CPU's."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return seen.on

    def device_count(self) -> int:
        return int(seen.on)

    def current_device(self) -> int:
        return 0

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass

    def get_rng_state(self, device: object = None) -> torch.Tensor:
        return torch.empty(0)

    def set_rng_state(self, state: torch.Tensor, device: object = None) -> None:
        pass


def _caller() -> str:
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if "/ftmech_hf/" in name and "/tests/" not in name and "site-packages" not in name:
            return f"ftmech_hf/{name.rsplit('/ftmech_hf/', 1)[1]}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "elsewhere"


class OnGpu(torch.Tensor):
    """A tensor of the simulated GPU, around one of the CPU."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> OnGpu:
        made: OnGpu = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            layout=inner.layout, device=torch.device("gpu", 0),
        )  # fmt: skip
        made.inner = inner
        return made

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, torch.Tensor], *_: Any) -> OnGpu:
        return OnGpu(inner["inner"])

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if func in (torch.Tensor.tolist, torch.Tensor.__format__, torch.Tensor.__repr__):
                return func(args[0].detach().cpu(), *args[1:])
            if func in (torch.Tensor.numpy, torch.Tensor.__array__):
                raise TypeError("can't convert gpu:0 device type tensor to numpy; it is not on the CPU")
            if func is torch.Tensor.untyped_storage:
                return args[0].inner.untyped_storage()  # whoever saves weights asks which share their memory
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    """Those among the arguments of an operation, or what it returns; torch's walk of trees would take half the time."""
    for each in values:
        if isinstance(each, torch.Tensor):
            yield each
        elif isinstance(each, list | tuple):
            yield from _tensors(each)


def _changed(kind: type[torch.Tensor], change: Callable[[Any], torch.Tensor], value: Any) -> Any:
    if isinstance(value, kind):
        return change(value)
    return type(value)([_changed(kind, change, each) for each in value]) if isinstance(value, list | tuple) else value


def _inner(tensor: OnGpu) -> torch.Tensor:
    return tensor.inner


def _check_places(func: Any, args: Any, kwargs: Any) -> None:
    """Refuse what a GPU refuses."""
    given = (args[0], *args[2:]) if func in _TAKES_INDICES_OF_THE_CPU else args
    stray = [each for each in _tensors((*given, *kwargs.values())) if not isinstance(each, OnGpu)]
    written = isinstance(args[0], torch.Tensor) and func._schema.arguments[0].is_write
    if any(each.dim() or func in _JOINS for each in stray) or (written and stray and stray[0] is args[0]):
        raise RuntimeError(f"Expected all tensors to be on the same device, but found gpu:0 and cpu in {func}")
    if (generator := kwargs.get("generator")) is not None and generator.device.type != "gpu":
        raise RuntimeError(f"Expected a 'gpu' device type for generator but found 'cpu' in {func}")


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    """Compute on the CPU; what comes of it is where it would be on a real GPU."""
    there = "gpu"
    if func not in _MOVES:
        _check_places(func, args, kwargs)
    if (device := kwargs.get("device")) is not None:
        there, kwargs = torch.device(device).type, {**kwargs, "device": torch.device("cpu")}
    elif func is aten.copy_.default and not isinstance(args[0], OnGpu):
        there = "cpu"
    if func in _WAITS or there == "cpu":
        seen.waits[_caller()] += 1
    named = {name: _changed(OnGpu, _inner, each) for name, each in kwargs.items()}
    out = func(*_changed(OnGpu, _inner, args), **named)
    if there == "gpu":
        if any(each.dtype == torch.float64 for each in _tensors((out,))):
            seen.doubles[_caller()] += 1
        out = _changed(torch.Tensor, OnGpu, out)
    return return_and_correct_aliasing(func, args, kwargs, out)


def _empty(size: Any, **options: Any) -> torch.Tensor:
    return OnGpu(torch.empty(size, dtype=options.get("dtype")))


def _empty_strided(size: Any, stride: Any, **options: Any) -> torch.Tensor:
    return OnGpu(torch.empty_strided(size, stride, dtype=options.get("dtype")))


def _copy_from(source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    """What torch itself does as it makes a tensor of a list of numbers."""
    assert isinstance(target, OnGpu)
    target.inner.copy_(source)
    return target


@functools.cache
def _register() -> torch.library.Library:
    """Tell torch of the device, once in a process; there is no way back."""
    _setup_privateuseone_for_python_backend("gpu", backend_module=_Module(), hook=_Hook())
    library = torch.library.Library("aten", "IMPL")
    library.impl("empty.memory_format", _empty, "PrivateUse1")
    library.impl("empty_strided", _empty_strided, "PrivateUse1")
    library.impl("_copy_from", _copy_from, "PrivateUse1")
    return library


@contextlib.contextmanager
def simulated_gpu() -> Iterator[Seen]:
    """A machine with one GPU, which settings find by ``auto``, ``cuda`` and ``gpu``."""
    _register()
    seen.__init__()  # type: ignore[misc]
    seen.on = True
    kept = _replaced("find_device", lambda name: torch.device(*(("cpu",) if name == "cpu" else ("gpu", 0))))
    try:
        # torch makes a thread for each device at the first gradient of a process, which may have been before this
        with torch.autograd.set_multithreading_enabled(False):
            yield seen
    finally:
        seen.on = False
        for module, value in kept.items():
            vars(sys.modules[module])["find_device"] = value


def _replaced(name: str, value: Callable[..., Any]) -> dict[str, Any]:
    """Replace a function of the package wherever it was imported to."""
    kept = {
        module: getattr(found, name) for module, found in list(sys.modules.items())
        if module.startswith("ftmech_hf.") and hasattr(found, "__dict__") and name in vars(found)
    }  # fmt: skip
    for module in kept:
        vars(sys.modules[module])[name] = value
    return kept
