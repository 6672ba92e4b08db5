"""`to_onnx`: what `export` wrote becomes an ONNX graph with QuantizeLinear and DequantizeLinear.

A quantized weight is an initializer of integers or 8-bit floats behind DequantizeLinear; a rounding of activations is
Clip, QuantizeLinear and DequantizeLinear at the tracked power of two, which is what the format does: clamp, then round
to nearest, ties to even. Roundings are traced as calls of one custom operator, for which the exporter puts these nodes.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import formats
from ..dataflow.quantizer import Quantizer
from ..errors import UserError
from .carriers import CARRIERS, NoCarrier, carrier_of
from .loading import load_exported, own_of, read, state, weight_as
from .packed import exponents
from .rounding import rounders_

BOTH = "leaves as ONNX, and the codes of this network by to=FILE.safetensors"
OPSET = 21  # the first with INT4


@torch.library.custom_op("lpt::rounded", mutates_args=())
def rounded(x: Tensor, low: float, high: float, scale: float, carrier: int) -> Tensor:
    """x clamped to [low, high] and rounded to a type's values times `scale`: a mark in the graph; it computes nothing.

    Args:
        x: any tensor.
        low: the format's lowest value at this scale.
        high: its highest.
        scale: a power of two.
        carrier: which of `CARRIERS`.
    """
    return x.clone()


@rounded.register_fake
def _(x: Tensor, low: float, high: float, scale: float, carrier: int) -> Tensor:
    return torch.empty_like(x)


def to_onnx(
    file: str | Path, inputs: Sequence[Tensor], *, to: str | Path, model: nn.Module | None = None
) -> dict[str, str]:
    """Write the network of a file of `export` as ONNX; its first dimension, the batch, may be of any size.

    Args:
        file: the safetensors file.
        inputs: what the network takes, as examples, at least two in a batch.
        to: the ONNX file, which is replaced if it is there.
        model: see `load_exported`.

    Returns:
        {weight: the type of ONNX that holds it}.

    Raises:
        UserError: something in it has no type in ONNX, or the network cannot be traced; nothing is written.
        ModuleNotFoundError: onnx or onnxscript is not installed.
    """
    import onnx
    import onnxscript  # noqa: F401  what torch's exporter needs: missing, it is named

    told, tensors = read(file)
    values = state(told, tensors)
    wide = [f"{n} is {t.dtype}" for n, t in values.items() if t.is_floating_point() and t.dtype != torch.float32]
    if wide and (told["weights"] or told["activations"]):
        raise UserError(f"{wide[0]}, and quantized networks leave as ONNX in float32: export model.float(), or give "
                        "to=FILE.safetensors")  # fmt: skip
    try:
        if told["products"] is not None:
            raise NoCarrier(f"the operands of products are rounded, which is not done in ONNX: products=none {BOTH}")
        held = {name: _initializers(name, says, tensors, values[name]) for name, says in told["weights"].items()}
        plain = load_exported(file, model)
    except NoCarrier as error:
        raise UserError(str(error)) from error
    refused: list[str] = []
    rounders_(plain, partial(_mark, refused=refused))
    with torch.no_grad():
        plain(*inputs)  # a tracer would drop what is noted
    if refused:
        raise UserError(refused[0])
    graph = _traced(plain, tuple(inputs))
    for name, own in held.items():
        names = [name, *(alias for alias, first in told["aliases"].items() if first == name)]
        _put(graph, names, *own)
    try:
        onnx.checker.check_model(graph, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise UserError(
            f"the graph is none by ONNX's own check: {str(error).strip().splitlines()[0]}; give to=FILE.safetensors"
        ) from error
    Path(to).write_bytes(graph.SerializeToString())
    return {name: onnx.TensorProto.DataType.Name(codes.data_type) for name, (codes, _, _) in held.items()}


def _mark(place: str, quantizer: Quantizer, refused: list[str]) -> Callable[[Tensor, bool], Tensor]:
    """Call `rounded` for the quantizer; or, if there is no type for it, note that it was called: tokens never do."""

    try:
        constants = _constants(place, quantizer)
    except NoCarrier as error:
        why = str(error)

        def note(x: Tensor, training: bool) -> Tensor:
            refused.append(why)
            return x

        return note
    return lambda x, training: rounded(x, *constants)


def _constants(place: str, quantizer: Quantizer) -> tuple[float, float, float, int]:
    format, where = quantizer.format, f"activations at {place!r} are rounded"
    if quantizer.form:
        raise NoCarrier(f"{where} to sums of two values, which no type of ONNX holds: format.input=single leaves")
    carrier, shift = carrier_of(format, where, alike=True)
    if not quantizer.started:
        raise NoCarrier(f"{where} at a scale of each batch's own, which ONNX does not have: scaling=tracked leaves")
    unit = 2.0 ** int(format.scale_for(quantizer.scale))
    return format.low * unit, format.high * unit, 2.0**shift * unit, CARRIERS.index(carrier)


def _traced(model: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    shapes = [{0: torch.export.Dim.DYNAMIC} for _ in inputs]
    table: Any = {torch.ops.lpt.rounded.default: _nodes}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's, about itself
        logger = logging.getLogger("torch.onnx")
        before, logger.level = logger.level, logging.ERROR
        try:
            program = torch.onnx.export(
                model, inputs, dynamo=True, optimize=False, verbose=False, opset_version=OPSET,
                dynamic_shapes=shapes, custom_translation_table=table,
            )  # fmt: skip
        except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
            raise UserError(
                f"torch cannot trace this network for ONNX: {str(error).strip().splitlines()[0]}"
            ) from error
        finally:
            logger.level = before
    assert program is not None
    graph = program.model_proto
    own = graph.graph
    for node in [*own.node, *own.initializer, *own.input, *own.output, *own.value_info]:
        del node.metadata_props[:]  # stack traces, which name the machine's paths
        node.doc_string = ""
    del graph.graph.metadata_props[:]
    return graph


def _nodes(x: Any, low: float, high: float, scale: float, carrier: int) -> Any:
    import onnx
    from onnxscript import opset21

    op: Any = opset21  # whose types do not know that the exporter calls this with values of its own

    name = CARRIERS[carrier].name
    unit = op.Constant(value_float=scale)
    inside = op.Clip(x, op.Constant(value_float=low), op.Constant(value_float=high))
    if name == "INT8":  # as UINT8 around 128, the same values: onnxruntime 1.32 turns INT8 into it and fails halfway
        zero = op.Constant(value=onnx.helper.make_tensor("zero", onnx.TensorProto.UINT8, [], [128]))
        return op.DequantizeLinear(op.QuantizeLinear(inside, unit, zero), unit, zero)
    codes = op.QuantizeLinear(inside, unit, output_dtype=getattr(onnx.TensorProto, name))
    return op.DequantizeLinear(codes, unit)


def _initializers(name: str, says: Mapping[str, Any], tensors: Mapping[str, Tensor], value: Tensor) -> tuple[Any, ...]:
    """A weight's values of its type, their scales, and the axis along which these lie, None for one scale."""
    import onnx

    own = own_of(name, tensors)
    if says["blocks"] or "scales.exponent" not in own:
        raise NoCarrier(f"{name} is stored in {says['format']}, whose scales ONNX's operators do not take: int4, int8 "
                        "and ocp_e4m3 leave as ONNX, this one to torchao if it is of MX or NVFP4, and its codes "
                        "by to=FILE.safetensors")  # fmt: skip
    carrier, shift = carrier_of(formats.get(says["element"]), f"{name} is stored")
    powers = weight_as(exponents(own, says), says) + shift
    rows = [(axis, powers.movedim(axis, 0).flatten(1)) for axis in range(powers.ndim)]
    along: tuple[int | None, Tensor] | None = next(
        ((axis, r[:, 0]) for axis, r in rows if bool((r == r[:, :1]).all())), None
    )
    if bool((powers == powers.flatten()[0]).all()):
        along = None, powers.flatten()[0]
    if along is None:
        raise NoCarrier(f"{name} has scales by groups of channels, which ONNX's operators do not take: without groups "
                        "it leaves, and its codes by to=FILE.safetensors")  # fmt: skip
    codes = torch.ldexp(value.double(), -powers).flatten().tolist()
    kind = getattr(onnx.TensorProto, carrier.name)
    if carrier.name.startswith("INT"):
        codes = [int(code) for code in codes]
    made = onnx.helper.make_tensor(f"{name}.codes", kind, list(value.shape), codes)
    scale = torch.exp2(along[1].double())
    scales = onnx.helper.make_tensor(
        f"{name}.scale", onnx.TensorProto.FLOAT, list(scale.shape), scale.reshape(-1).tolist()
    )
    return made, scales, along[0]


def _put(graph: Any, names: Sequence[str], codes: Any, scales: Any, axis: int | None) -> None:
    """Codes and scales in the place of the initializers of these names."""
    import onnx

    at = next((i for i, own in enumerate(graph.graph.initializer) if own.name in names), None)
    if at is None:
        raise UserError(f"{names[0]} is not in the graph that torch makes of this network: give to=FILE.safetensors")
    name = graph.graph.initializer[at].name
    del graph.graph.initializer[at]
    graph.graph.initializer.extend([codes, scales])
    options: dict[str, Any] = {} if axis is None else {"axis": axis}
    node = onnx.helper.make_node("DequantizeLinear", [codes.name, scales.name], [name], **options)
    graph.graph.node.insert(0, node)
