"""A run's network as a file that others can read: `python scripts/export.py outputs/RUN [to=FILE]`.

Quantized weights are written as packed codes with their scales, everything else as it is, and a model card (.md) beside
it. What is written is read back and evaluated: it gives the run's own validation metrics, or there is no file.
`lpt.load_exported(FILE)` makes a plain module of it; `init_from=FILE` starts a training from it.
FILE.onnx is ONNX with QuantizeLinear and DequantizeLinear, run with onnxruntime on the validation part and compared
with the run; formats that ONNX has no type for are told. FILE.pt2 is a program for torch.export.load, any format, which
needs torch alone; compared in the same way.
A run of a model of one's own names its code: trust=[my_package], if you trust that run.
Exit code: 0 done, 2 a mistake in the command.
"""

import sys

from ..errors import UserError
from ..runs.terminal import say
from .answering import answered, listed


def main(arguments: list[str] | None = None) -> int:
    return answered(__doc__ or "", _export, arguments)


def _export(arguments: list[str]) -> None:
    from ..runs.exporting import export_run
    from ..runs.trust import trusted

    run, *words = arguments
    options = dict(word.partition("=")[::2] for word in words)
    if options.keys() - {"to", "trust"} or "" in options.values():
        raise UserError(f"{' '.join(words)}: give only to=FILE and trust=[PACKAGE]")
    file, said = export_run(run, options.get("to"), trusted(options.get("trust", "")))
    for name, why in said["stored"].items():
        print(f"{name} is stored as it is: {why}", file=sys.stderr)
    say(listed(said["about"]["metrics"]))
    size = f"{file.stat().st_size:,} bytes, {len(said['weights'])} weights as codes"
    if "way" in said:
        say(said["way"]["compared"])
    say(f"\n{file} ({size}), {file.with_suffix('.md').name}")
