"""Multiply-adds, the unit of every cost and budget here: 1 GFLOPs = 1e9 multiply-adds.

Convolutions, linear layers and recurrent matrices count. Everything else is 0: biases, normalisation, activations,
pooling, interpolation, softmax, elementwise arithmetic, and products of two activations (attention scores, class
activation maps). The projections of nn.MultiheadAttention and of functional attention code (torchvision's Swin) are
linear layers and do count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Arguments: TypeAlias = tuple[Any, ...]
Function: TypeAlias = Callable[..., Any]


class MacsCounter(TorchFunctionMode):
    """Context manager: `macs` is the multiply-adds of all that ran inside so far, every row of every batch.

    It sees the calls of torch functions themselves, so it needs no hooks on modules and misses no functional code; it
    sees this thread only, and nothing inside a compiled module (count the original instead).
    """

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0

    def __torch_function__(
        self, func: Function, types: Sequence[type], args: Arguments = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The function's own result, after adding its cost."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        count = _COUNTERS.get(func)
        if count is not None:
            self.macs += count(args, kwargs, result)
        return result


def count_macs(module: nn.Module, *inputs: Sequence[int] | Tensor) -> int:
    """Multiply-adds of module(*inputs) in eval mode, for all rows of the batch.

    inputs: a tensor, or its shape with the batch axis: count_macs(net, (1, 3, 224, 224)) is the cost of one image. The
    module runs once on zeros, where its weights lie and in their type (on the meta device nothing is computed); it is
    left as it was.
    """
    like = next(module.parameters(), torch.empty(0))
    counter = MacsCounter()
    with evaluation_mode(module), torch.no_grad(), counter:
        module(*(_zeros(each, like) for each in inputs))
    return counter.macs


def _zeros(each: Sequence[int] | Tensor, like: Tensor) -> Tensor:
    if isinstance(each, Tensor):
        return torch.zeros_like(each, device=like.device)
    return torch.zeros(tuple(each), device=like.device, dtype=like.dtype)


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards each submodule has its own former mode again."""
    training = {each: each.training for each in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for each, was_training in training.items():
            each.training = was_training


def _argument(args: Arguments, kwargs: Mapping[str, Any], position: int, name: str) -> Any:
    return args[position] if position < len(args) else kwargs[name]


def _convolution(args: Arguments, kwargs: Mapping[str, Any], result: Tensor) -> int:
    weight = cast(Tensor, _argument(args, kwargs, 1, "weight"))  # (out, in / groups, *kernel)
    return result.numel() * weight[0].numel()


def _transposed_convolution(args: Arguments, kwargs: Mapping[str, Any], result: Tensor) -> int:
    weight = cast(Tensor, _argument(args, kwargs, 1, "weight"))  # (in, out / groups, *kernel)
    return cast(Tensor, _argument(args, kwargs, 0, "input")).numel() * weight[0].numel()


def _linear(args: Arguments, kwargs: Mapping[str, Any], result: Tensor) -> int:
    weight = cast(Tensor, _argument(args, kwargs, 1, "weight"))  # (out, in)
    return cast(Tensor, _argument(args, kwargs, 0, "input")).numel() * weight.shape[0]


def _recurrent(args: Arguments, kwargs: Mapping[str, Any], result: object) -> int:
    """Every matrix once per step and row: layers, directions and LSTM projections are all among the weights."""
    rows: Tensor = args[0]  # (steps, batch, in), (batch, steps, in), or packed (rows, in)
    weights: Sequence[Tensor] = args[3] if isinstance(args[3], (list, tuple)) else args[2]  # packed rows: sizes first
    matrices = [each for each in weights if each.ndim == 2]
    return rows.numel() // rows.shape[-1] * sum(matrix.numel() for matrix in matrices)


def _recurrent_cell(args: Arguments, kwargs: Mapping[str, Any], result: object) -> int:
    rows, _, weight_in, weight_hidden = args[:4]
    return int(rows.numel() // rows.shape[-1] * (weight_in.numel() + weight_hidden.numel()))


def _attention(args: Arguments, kwargs: Mapping[str, Any], result: object) -> int:
    """The four projections of multi-head attention: of query, key, value (..., features), and of the output."""
    query, key, value, embed_dim = args[:4]
    output_numel = query.numel() // query.shape[-1] * embed_dim
    return int(embed_dim * (query.numel() + key.numel() + value.numel() + output_numel))


_COUNTERS: dict[Function, Callable[[Arguments, Mapping[str, Any], Any], int]] = {
    functional.linear: _linear,
    functional.multi_head_attention_forward: _attention,
    **dict.fromkeys((torch.conv1d, torch.conv2d, torch.conv3d), _convolution),
    **dict.fromkeys((torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d), _transposed_convolution),
    **dict.fromkeys((torch.gru, torch.lstm, torch.rnn_tanh, torch.rnn_relu), _recurrent),
    **dict.fromkeys((torch.gru_cell, torch.lstm_cell, torch.rnn_tanh_cell, torch.rnn_relu_cell), _recurrent_cell),
}
