"""A device that is only pretended: tensors that say they lie elsewhere, and refuse to be mixed with those of the CPU.

Their numbers lie on the CPU all the same, so that what a GPU would compute can be tested where there is none. The
pretended device goes by the name "meta", one that torch knows everywhere.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import optimizer
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

from foilrec.numerics import streams

AWAY, CPU = torch.device("meta"), torch.device("cpu")
aten = torch.ops.aten
CROSSES = (aten._to_copy, aten.copy_, aten.copy)  # what takes numbers from one device to the other
WAITS = (aten._local_scalar_dense, aten.nonzero, aten._unique2, aten.unique_dim, aten.bincount, aten.equal)
INDEXES = (aten.index, aten.index_put, aten.index_put_, aten._unsafe_index)  # which may take theirs from the CPU


class Elsewhere(Tensor):
    """A tensor on the pretended device; `numbers` is what it stands for."""

    numbers: Tensor

    @staticmethod
    def __new__(cls, numbers: Tensor) -> "Elsewhere":
        dense = numbers.layout is torch.strided
        made: Elsewhere = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            numbers.size(),
            strides=numbers.stride() if dense else None,
            storage_offset=numbers.storage_offset() if dense else None,
            dtype=numbers.dtype,
            device=AWAY,
        )
        made.numbers = numbers
        return made

    def __repr__(self) -> str:
        return f"Elsewhere({self.numbers!r})"

    @property
    def is_sparse(self) -> bool:  # type: ignore[override]
        return self.numbers.is_sparse

    @property
    def is_meta(self) -> bool:  # type: ignore[override]
        return False

    def new_tensor(self, data: Any, **options: Any) -> Tensor:
        return torch.tensor(data, **{"dtype": self.dtype, "device": AWAY, **options})

    def coalesce(self) -> Tensor:
        return Elsewhere(self.numbers.coalesce())

    def values(self) -> Tensor:
        return Elsewhere(self.numbers.values())

    def tolist(self) -> Any:
        return self.numbers.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert a tensor of another device to numpy: use .cpu() first")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


class Source(torch.Generator):
    """A generator of the pretended device. Torch hands it on as one of its own kind, so that it is known by address."""

    device = AWAY  # type: ignore[assignment]
    alive: list["Source"] = []


class Pretending(TorchDispatchMode):
    """While it is on, device "meta" is the pretended one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


waited: list[str] = []  # what a GPU would have had to be waited for: numbers read, and shapes that hang on numbers


def _masks(packet: Any, args: Any) -> bool:
    """Whether it indexes by truth, whose rows have to be counted first."""
    return packet in INDEXES and any(x is not None and x.dtype == torch.bool for x in args[1])


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """What func gives, on the device on which it would lie; RuntimeError where a GPU would refuse."""
    packet, device = func.overloadpacket, kwargs.get("device")
    tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    away = any(isinstance(x, Elsewhere) for x in tensors)
    if away and packet not in CROSSES:
        asked = [args[0], *pytree.tree_leaves(args[2:])] if packet in INDEXES else tensors
        here = [x for x in asked if isinstance(x, Tensor) and not isinstance(x, Elsewhere) and x.dim()]
        if here or (packet in INDEXES and not isinstance(args[0], Elsewhere)):
            raise RuntimeError(f"{func}: expected all tensors on one device, and found some of them on the CPU")
    if away and (packet in WAITS or (packet is aten._to_copy and device == CPU) or _masks(packet, args)):
        waited.append(str(packet))
    goes = away if device is None else torch.device(device) == AWAY
    source = kwargs.get("generator")
    if source is not None and any(source._cdata == mine._cdata for mine in Source.alive) != goes:
        raise RuntimeError(f"{func}: the generator is of another device")
    plain = {**kwargs, "device": CPU} if device is not None else kwargs
    args_in, kwargs_in = pytree.tree_map_only(Elsewhere, lambda x: x.numbers, (args, plain))
    out = func(*args_in, **kwargs_in)
    if packet is aten.copy_:
        return args[0]
    if not goes:
        return out
    wrapped = pytree.tree_map_only(Tensor, lambda x: x if isinstance(x, Elsewhere) else Elsewhere(x), out)
    return return_and_correct_aliasing(func, args, kwargs, wrapped) if away else wrapped


@contextmanager
def pretended() -> Iterator[torch.device]:
    """The pretended device, as long as it lasts."""
    real_generator, real_tensor = streams.generator, torch.tensor

    def generator(seed: int, *names: object, device: str = "cpu") -> torch.Generator:
        if torch.device(device) != AWAY:
            return real_generator(seed, *names, device=device)
        Source.alive.append(Source())
        return Source.alive[-1].manual_seed(streams.key(seed, *names))

    def tensor(data: Any, *, device: Any = None, **options: Any) -> Tensor:
        made = real_tensor(data, **options)  # which would make one of nothing, for "meta", past all dispatch
        return made if device is None else made.to(device)

    with pytest.MonkeyPatch.context() as patch, Pretending():
        patch.setattr(streams, "generator", generator)
        patch.setattr(torch, "tensor", tensor)
        patch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: ["cpu", AWAY.type])
        yield AWAY
    Source.alive.clear()
