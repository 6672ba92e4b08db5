"""What a search has measured, on disk at once: a search that is killed loses nothing that it finished."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..formats import Format
from .probe import Angles, Probe

Found = dict[tuple[int, int], Angles]  # by batch and format


class Journal:
    """Angles by (batch, format), in a file that only grows: one JSON line for each evaluation, after a line that says
    what is searched.

    Args:
        path: the file; None keeps everything in memory.
        key: of everything that decides the numbers. A file with another key is started afresh.
    """

    def __init__(self, path: Path | None = None, key: str = "") -> None:
        self.path = path
        self.known: dict[tuple[int, str], Angles] = {}
        if path is None:
            return
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1] if path.is_file() else []
        head = json.dumps({"key": key})
        lines = [head, *(lines[1:] if lines[:1] == [head] else [])]
        for number, line in enumerate(lines[1:], 1):
            try:
                batch, name, error, activation, *layers = json.loads(line)
                self.known[batch, name] = Angles(error, activation, *(tuple(layer) for layer in layers))
            except (ValueError, TypeError):  # damaged: what stood from here on is measured again
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
            row = [batch, name, angles.error, angles.activation]
            if angles.error_layers:
                row += [angles.error_layers, angles.activation_layers]
            self._file.write(json.dumps(row) + "\n")


class Measured:
    """Angles as the journal knows them, or as the probe measures them.

    Args:
        probe: of the model.
        batches: all of them; the n-th to be run is `batches[order[n]]`.
        formats: what is measured; format i is `formats[i]`.
        journal: open.
    """

    def __init__(
        self, probe: Probe, batches: Sequence[Any], order: Sequence[int], formats: Sequence[Format], journal: Journal
    ) -> None:
        self.probe, self.batches, self.order, self.formats, self.journal = probe, batches, order, formats, journal

    def of(self, n: int, indices: Sequence[int], per_layer: bool = False) -> Found:
        """The angles of these formats on the n-th batch, whose gradient is computed only if one is not known."""
        batch, measure, found = self.order[n], None, {}
        for i in indices:
            format = self.formats[i]
            known = self.journal.known.get((batch, format.name))
            if known is None or (per_layer and not known.error_layers):
                measure = measure or self.probe.at(self.batches[batch])
                known = measure(format, per_layer)
                self.journal.write(batch, format.name, known)
            found[n, i] = known
        return found
