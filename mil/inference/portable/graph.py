"""One trained model as a graph that runs without this software: torch.export or ONNX, for bags of any size.

The graph takes one bag, ``rows`` float32 (n, D) of raw features, and gives ``logits`` (C,); standardisation is inside.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mil.models.model import BagModel
from wsi.arrays import Floats
from wsi.errors import RequestError
from wsi.files.atomic import replacing

Floats32 = NDArray[np.float32]
Predict = Callable[[Floats32], Floats]
"""From the rows (n, D) of one bag to logits (C,)."""
_EXAMPLE_ROWS = 50
_MOST_ROWS = 1 << 24
CHECKED_ROWS = (1, 2, 313, 5000)
"""Sizes of the bags on which a graph is compared with the model."""
TOLERANCE = 1e-4
"""Largest difference of a logit that is put down to the order of sums."""


class OneBag(nn.Module):
    """A model that takes the rows of one bag."""

    def __init__(self, model: BagModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, rows: Tensor) -> Tensor:
        """Return the logits (C,) of rows (n, D)."""
        told = self.model.spec.n_classes - self.model.spec.extra_classes  # extra classes are learnt, and never told
        logits_C: Tensor = self.model(rows, (0, rows.shape[0])).logits_BC[0, :told]
        return logits_C


def torch_predict(model: BagModel) -> Predict:
    """Return the model itself as a function."""
    bag = OneBag(model).eval()

    def predict(rows: Floats32) -> Floats:
        with torch.inference_mode():
            return np.asarray(bag(torch.from_numpy(rows)).double().numpy())

    return predict


def save_exported(model: BagModel, path: Path) -> Predict:
    """Write a .pt2 file of torch.export; return what was read back."""
    example, shapes = _example(model)
    with _quiet(model):
        program = torch.export.export(OneBag(model).eval(), example, dynamic_shapes=shapes).run_decompositions({})
    with replacing(path) as temporary:
        renamed = temporary.with_suffix(".pt2")
        torch.export.save(program, renamed)
        renamed.replace(temporary)
    module = torch.export.load(path).module()

    def predict(rows: Floats32) -> Floats:
        with torch.inference_mode():
            return np.asarray(module(torch.from_numpy(rows)).double().numpy())

    return predict


def save_onnx(model: BagModel, path: Path) -> Predict:
    """Write an ONNX file, weights inside; return what onnxruntime makes of it."""
    write_onnx(OneBag(model).eval(), model, path, ("logits",))
    return onnx_predict(path)


def write_onnx(graph: nn.Module, model: BagModel, path: Path, outputs: Sequence[str]) -> None:
    """Write a graph that takes ``rows`` as ``model`` does and gives the outputs named."""
    example, shapes = _example(model)
    with replacing(path) as temporary, _quiet(model):
        torch.onnx.export(
            graph,
            example,
            temporary,
            dynamic_shapes=shapes,
            dynamo=True,
            verbose=False,
            input_names=["rows"],
            output_names=list(outputs),
            external_data=False,
        )
        _forget_places(temporary)


def _forget_places(path: Path) -> None:
    """Take out of a graph what the exporter notes of each node: files and lines of the machine it was made on."""
    import onnx

    graph = onnx.load(path)
    for node in (*graph.graph.node, *(node for function in graph.functions for node in function.node)):
        del node.metadata_props[:]
    onnx.save(graph, path)


def onnx_predict(path: Path, output: str = "logits") -> Predict:
    """Return an output of an ONNX file as a function, on one thread of the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def predict(rows: Floats32) -> Floats:
        return np.asarray(session.run([output], {"rows": rows})[0], np.float64)

    return predict


def largest_difference(one: Predict, other: Predict, dim: int) -> float:
    """Return the largest difference of two functions' logits on made-up bags of `CHECKED_ROWS` rows."""
    rng = np.random.default_rng(0)
    bags = [rng.normal(size=(n, dim)).astype(np.float32) for n in CHECKED_ROWS]
    return max(float(np.abs(one(bag) - other(bag)).max()) for bag in bags)


def _example(model: BagModel) -> tuple[tuple[Tensor], dict[str, Any]]:
    rows = torch.randn(_EXAMPLE_ROWS, model.spec.dim, generator=torch.Generator().manual_seed(0))
    return (rows,), {"rows": {0: torch.export.Dim("tiles", min=1, max=_MOST_ROWS)}}


@contextlib.contextmanager
def _quiet(model: BagModel) -> Iterator[None]:
    """Keep the exporter's talk to itself; turn its failure into one line."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            yield
    except Exception as error:  # the exporter raises many kinds, from many packages
        if any(isinstance(cause, KeyboardInterrupt) for cause in causes(error)):
            raise KeyboardInterrupt from None  # which the exporter may wrap
        if isinstance(error, OSError | MemoryError):  # of the machine, not of the head
            raise
        reason = (str(error).splitlines() or [""])[0]
        raise RequestError(
            f"head {model.spec.name} cannot be exported as one graph for bags of any size ({type(error).__name__}: "
            f"{reason[:120]}): train another head for that"
        ) from None
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Give an error and what it was raised from or while handling."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__
