"""A GPU for machines without one: tensors that say they are on it, and errors where a real one would give them.

Computed is on the CPU, so that results are those of the CPU to the last bit. What is watched: that no operation
mixes devices (numbers and indices aside), that numpy sees no tensor of the GPU, and that no random numbers are
drawn there from a generator of the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

CPU, GPU = torch.device("cpu"), torch.device("cuda")
MOVES = ("to", "cpu")
INDEXING = ("__getitem__", "__setitem__")
NOT_COMPUTED = ("_has_compatible_shallow_copy_type", "__set__", "__deepcopy__")
UNCHECKED = (*NOT_COMPUTED, "_fused_adamw_")  # the optimiser's gradients are marked by nobody


class OnGpu(torch.Tensor):
    """A tensor that says that it is on the GPU. Parameters, whose data modules exchange, are listed instead."""


class TwoDevices(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations = 0
        self._parameters: dict[int, tuple[nn.Parameter, bool]] = {}

    def on_gpu(self, value: Any) -> bool:
        _, there = self._parameters.get(id(value), (value, isinstance(value, OnGpu)))
        return there

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        if func == torch.Tensor.device.__get__:
            return GPU if self.on_gpu(args[0]) else CPU
        if func == torch.Tensor.data.__set__:
            parameter, value = args
            self._parameters[id(parameter)] = (parameter, self.on_gpu(value))
        if name == "numpy" and self.on_gpu(args[0]):
            raise TypeError("can't convert cuda tensor to numpy")
        tensors = [value for value in _flat((args, kwargs)) if isinstance(value, torch.Tensor)]
        there = any(map(self.on_gpu, tensors))
        wanted = [value for value in (*args[1:], kwargs.get("device")) if isinstance(value, torch.device)]
        if wanted or name == "cpu":
            there = wanted == [GPU]
            if there and "generator" in kwargs:
                raise RuntimeError("Expected a 'cuda' device type for generator")
            args = tuple(CPU if isinstance(value, torch.device) else value for value in args)
            kwargs |= {"device": CPU} if "device" in kwargs else {}
        elif there and name not in UNCHECKED:
            self.operations += 1
            self._check(name, tensors)
        if name == "__deepcopy__" and isinstance(args[0], OnGpu):
            func, args = torch.Tensor.clone, args[:1]
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
            if name in MOVES:
                result = result.clone()  # a tensor that need not move is given back itself
        return self._marked(result, args) if there else _plain(result)

    def _check(self, name: str, tensors: list[torch.Tensor]) -> None:
        if name in INDEXING:
            if not self.on_gpu(tensors[0]):
                raise RuntimeError("indices should be on the CPU or on the device of what they are of")
        elif any(tensor.ndim and not self.on_gpu(tensor) for tensor in tensors):
            raise RuntimeError(f"Expected all tensors to be on the same device: {name}")

    def _marked(self, result: Any, args: Any) -> Any:
        if isinstance(result, nn.Parameter):
            self._parameters[id(result)] = (result, True)
        elif isinstance(result, torch.Tensor):
            return result if any(result is value for value in args) else result.as_subclass(OnGpu)
        elif isinstance(result, tuple | list) and type(result) in (tuple, list):
            return type(result)(self._marked(part, args) for part in result)
        return result


def _plain(result: Any) -> Any:
    return result.as_subclass(torch.Tensor) if isinstance(result, OnGpu) else result


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple | list):
        for part in value:
            yield from _flat(part)
    elif isinstance(value, dict):
        yield from _flat(list(value.values()))
    else:
        yield value
