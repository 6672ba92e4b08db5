"""What a search has measured, on disk at once: a search that is killed loses nothing that it finished."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .candidates import Candidate
from .draws import TwoNumbers
from .probe import Angles, Probe

Found = dict[tuple[int, int], Angles]  # by batch and format


class Journal:
    """Angles by (batch, candidate), in a file that only grows: a JSON line for each evaluation, after one that says
    what is searched.

    Args:
        path: the file; None keeps everything in memory.
        key: of everything that decides the numbers. A file with another key is started afresh.
    """

    def __init__(self, path: Path | None = None, key: str = "") -> None:
        self.path = path
        self.known: dict[tuple[int, str], Angles] = {}
        self.systematic: dict[tuple[str, int, int], TwoNumbers] = {}  # by candidate, batches, draws
        if path is None:
            return
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1] if path.is_file() else []
        head = json.dumps({"key": key})
        lines = [head, *(lines[1:] if lines[:1] == [head] else [])]
        for number, line in enumerate(lines[1:], 1):
            try:
                self._read(json.loads(line))
            except (ValueError, TypeError, LookupError):  # damaged: what stood from here on is measured again
                del lines[number:]
                break
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        os.replace(temporary, path)

    def __enter__(self) -> Journal:
        self._file = None if self.path is None else self.path.open("a", encoding="utf-8", buffering=1)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, batch: int, name: str, angles: Angles) -> None:
        self.known[batch, name] = angles
        if self._file is not None:
            row: list[Any] = [batch, name, angles.error, angles.activation]
            if angles.error_layers or angles.whole is not None:
                row += [angles.error_layers, angles.activation_layers]
            self._file.write(json.dumps(row if angles.whole is None else [*row, angles.whole]) + "\n")

    def write_systematic(self, name: str, batches: int, draws: int, numbers: TwoNumbers) -> None:
        self.systematic[name, batches, draws] = numbers
        if self._file is not None:
            row = [name, batches, draws, numbers.systematic, numbers.noise_to_signal]
            self._file.write(json.dumps(row) + "\n")

    def _read(self, row: Any) -> None:
        if isinstance(row[0], str):
            name, batches, draws, *numbers = row
            self.systematic[name, batches, draws] = TwoNumbers(*numbers)
            return
        batch, name, error, activation, *more = row
        layers = [tuple(layer) for layer in more[:2]] or [(), ()]
        self.known[batch, name] = Angles(error, activation, layers[0], layers[1], *more[2:])


class Measured:
    """Angles as the journal knows them, or as the probe measures them.

    Args:
        probe: of the model.
        batches: all of them; the n-th to be run is `batches[order[n]]`.
        candidates: what is measured; number i is `candidates[i]`.
        journal: open.
        whole: whether everything rounded, forward and back, is measured as well.
    """

    def __init__(
        self, probe: Probe, batches: Sequence[Any], order: Sequence[int], candidates: Sequence[Candidate],
        journal: Journal, whole: bool = False,
    ) -> None:  # fmt: skip
        self.probe, self.batches, self.order, self.candidates = probe, batches, order, candidates
        self.journal, self.whole = journal, whole

    def of(self, n: int, indices: Sequence[int], per_layer: bool = False) -> Found:
        """The angles of these candidates on the n-th batch, whose gradient is computed only if one is not known."""
        batch, measure, found = self.order[n], None, {}
        for i in indices:
            each = self.candidates[i]
            known = self.journal.known.get((batch, each.name))
            if known is None or (per_layer and not known.error_layers) or (self.whole and known.whole is None):
                measure = measure or self.probe.at(self.batches[batch])
                known = measure(each, per_layer, self.whole, draw=batch)
                self.journal.write(batch, each.name, known)
            found[n, i] = known
        return found
