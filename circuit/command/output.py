"""What a command prints: sentences and tables for people, or JSON lines for programs.

output = Output(as_json=False)
output.say("24 of 24 pairs can be used.")
"""

from __future__ import annotations

import json
import math
import sys
from typing import Any, TextIO

import pandas as pd


class Output:
    """With `as_json`, one object a line on the standard output, whose `event` is progress, note, result or error.
    Otherwise results there, and progress (on a terminal alone), notes and errors on the standard error."""

    def __init__(self, as_json: bool, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self._as_json = as_json
        self._out, self._err = out or sys.stdout, err or sys.stderr
        self._draws = not as_json and self._err.isatty()

    def progress(self, step: int, total: int, message: str = "") -> None:
        """A `circuit.common.progress.Report`."""
        if self._as_json:
            self._line("progress", step=step, total=total, message=message)
        elif self._draws:
            steps = f"{step:,} of {total:,}" if total else ""
            self._err.write(f"\r\x1b[2K{' · '.join(filter(None, (steps, message)))}"[:110])
            self._err.flush()

    def say(self, words: str) -> None:
        """A line for people."""
        if not self._as_json:
            self._clear()
            print(words, file=self._out)

    def table(self, table: pd.DataFrame) -> None:
        """A table for people."""
        self.say(table.to_string(index=False, float_format=lambda number: f"{number:.4g}", na_rep="–"))

    def result(self, **values: Any) -> None:
        """The result for programs, in plain values; what is not a finite number is null."""
        if self._as_json:
            self._line("result", **values)

    def note(self, sentence: str) -> None:
        """What was done differently from what was asked."""
        if self._as_json:
            self._line("note", message=sentence)
        else:
            self._clear()
            print(f"Note: {sentence}", file=self._err)

    def error(self, sentence: str, code: int) -> None:
        """Why it ends here."""
        if self._as_json:
            self._line("error", message=sentence, code=code)
        else:
            self._clear()
            print(f"edgescope: {sentence}", file=self._err)

    def _line(self, event: str, **values: Any) -> None:
        print(json.dumps({"event": event, **_finite(values)}, ensure_ascii=False), file=self._out, flush=True)

    def _clear(self) -> None:
        if self._draws:
            self._err.write("\r\x1b[2K")
            self._err.flush()


def rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A table as plain values, one object a row."""
    return [dict(zip(table.columns, row, strict=True)) for row in table.to_numpy(dtype=object).tolist()]


def _finite(value: Any) -> Any:
    """Plain values as JSON has them, which knows no NaN and no infinity."""
    if isinstance(value, dict):
        return {str(name): _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    if hasattr(value, "item"):  # a number of numpy's
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
