"""What watches every operation of torch: it forbids those that no CUDA graph can hold."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

READING = ("aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero", "aten::equal")


class NothingIsRead(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Forbids to read a value of the device, or a size that depends on one; and counts the operations."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket._qualified_op_name
        assert name not in READING, name
        self.counts[name] += 1
        return func(*args, **(kwargs or {}))


class NothingCrosses(NothingIsRead):  # type: ignore[no-untyped-call]
    """Forbids tensors of the host, too, in what a ``meta`` device does: on a GPU they would have to be copied there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_dispatch__(func, types, args, kwargs)
        name = func.overloadpacket._qualified_op_name
        for value in tree_leaves((args, kwargs, result)):
            assert not isinstance(value, torch.Tensor) or value.device.type == "meta", f"{name} on the host"
        return result
