"""Prompt sets as files: JSON, JSON Lines, CSV and TSV, read as data only.

    FORMATS        the formats by the ending of their files
    read_file      the bytes of a file, by its name
    file_reading   the same, with sentences on how it was read
    text_reading   a pasted text, in whichever format it is
    write          a prompt set in one of the formats

    prompts = read_file(b"clean,corrupt,answers\\nAnn asks,Tom asks, her", "mine.csv")
    write(prompts, "jsonl")

Whatever is read, the result is a prompt set or a `PromptError` that names the line. What is written and read again is
the same in every format, except for the name of the set, which only JSON holds: the others are named after their file.

Tables are separated by commas, semicolons or tabs. A first line of names may have them in any order, under the names
that `circuit.prompts.columns` knows; without one, the columns are clean, corrupt, answers and wrong_answers. Labels of
a set (`seq_labels`, `word_idxs`) stand in columns of their own in a first row that holds no pair, and in a first line
of JSON Lines. In a table that is written, a cell that a spreadsheet would compute stands behind an apostrophe, which is
taken off again when it is read.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import PurePath
from typing import Any

from circuit.common.errors import PromptError
from circuit.common.text import one_line
from circuit.common.words import counted, size
from circuit.models.tokenizer import PromptTokenizer
from circuit.prompts.cells import cell_of
from circuit.prompts.columns import Columns, Row, are_names, are_only_names, pairs_of
from circuit.prompts.pairs import (
    LABELS,
    LONGEST_NAME,
    MOST_BYTES,
    PromptSet,
    check_rows,
    check_size,
    entry_of,
    is_text,
    json_of,
    labels_of,
)

COLUMNS = ("clean", "corrupt", "answers", "wrong_answers")
_LISTS = ("prompts", "pairs", "data", "examples", "rows")
"""What the list of pairs may be called in a JSON object."""
_COMPUTED = re.compile(r"'*[=+\-@\t\r]")
"""How a cell begins that a spreadsheet computes, behind apostrophes or none."""


@dataclass(frozen=True)
class Format:
    """A kind of file."""

    title: str
    mime: str
    delimiter: str = ""


FORMATS = {
    "json": Format("JSON (AutoCircuit)", "application/json"),
    "jsonl": Format("JSON Lines", "application/jsonl"),
    "csv": Format("CSV", "text/csv", ","),
    "tsv": Format("TSV", "text/tab-separated-values", "\t"),
}


# --- reading -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """What was read."""

    prompts: PromptSet
    notes: tuple[str, ...] = ()
    """Sentences on columns that were not read, and on what token ids were taken for."""


def read_file(data: bytes, filename: str, tokenizer: Any = None) -> PromptSet:
    """Read a file; its ending says the format, and any other ending leaves it to the content.

    Args:
        data: The file's bytes.
        filename: Its name, which is that of the set unless it holds one itself.
        tokenizer: A Hugging Face tokenizer, or a `PromptTokenizer`, for files that hold token ids.

    Raises:
        PromptError: When it is too large or cannot be read; names the line.
    """
    return file_reading(data, filename, None if tokenizer is None else PromptTokenizer.of(tokenizer)).prompts


def file_reading(data: bytes, filename: str, tokenizer: PromptTokenizer | None = None) -> Reading:
    """As `read_file`, with sentences on how it was read."""
    if len(data) > MOST_BYTES:
        raise PromptError(f"The file has {size(len(data))}, and {size(MOST_BYTES)} are the most.")
    path = PurePath(one_line(filename, LONGEST_NAME))
    kind = path.suffix.lower().removeprefix(".")
    return text_reading(_decoded(data), path.stem or "prompts", kind if kind in FORMATS else None, tokenizer)


def text_reading(
    text: str, name: str = "pasted prompts", kind: str | None = None, tokenizer: PromptTokenizer | None = None
) -> Reading:
    """Read a text in one of the `FORMATS`; without `kind`, its content says in which.

    Raises:
        PromptError: When it is too large or cannot be read; names the line.
    """
    text = text.removeprefix("\ufeff")
    if len(text) > MOST_BYTES:
        raise PromptError(f"The text has {len(text):,} characters, and {MOST_BYTES:,} are the most.")
    if not text.strip():
        raise PromptError("There is nothing in it: expected prompt pairs.")
    if not is_text(text):
        raise PromptError("The text holds halves of characters (surrogates): save it as UTF-8.")
    kind = kind or _guess(text)
    if kind == "json":
        named, rows, labels = _from_json(text)
    elif kind == "jsonl":
        named, (rows, labels) = "", _from_lines(text)
    else:
        named, (rows, labels) = "", _from_table(text, FORMATS[kind].delimiter)
    pairs, notes = pairs_of(rows, tokenizer)
    prompts = PromptSet(one_line(named, LONGEST_NAME) or name, pairs, *labels_of(labels))
    check_size(prompts)
    return Reading(prompts, notes)


def _decoded(data: bytes) -> str:
    # What spreadsheets call "Unicode text" is UTF-16.
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise PromptError(
            f"Line {line} holds a byte that is no text in {encoding.upper()}: save the file as UTF-8."
        ) from error


def _guess(text: str) -> str:
    start = text.lstrip()
    if start.startswith("["):
        return "json"
    if start.startswith("{"):
        first, _, rest = text.strip().partition("\n")
        try:
            entry = json.loads(first)
        except (ValueError, RecursionError):
            return "json"
        return "jsonl" if rest or "prompts" not in entry else "json"
    return "tsv" if "\t" in start.partition("\n")[0] else "csv"


def _from_json(text: str) -> tuple[str, list[Row], dict[str, Any]]:
    """The name in a JSON text, its rows, and its labels."""
    try:
        data = json_of(text)
    except PromptError:
        if not _begins_with_an_object(text):
            raise
        return "", *_from_lines(text)
    entries, labels = data, {}
    if isinstance(data, dict):
        labels = data
        entries = next((data[key] for key in _LISTS if isinstance(data.get(key), list)), None) or _transposed(data)
        if entries is None and not isinstance(data.get("prompts"), list):
            raise PromptError('The JSON must hold {"prompts": [...]}: a list of prompt pairs.')
    if not isinstance(entries or [], list):
        raise PromptError("The JSON must hold a list of prompt pairs.")
    rows = [_object(f"Prompt {row}", entry) for row, entry in enumerate(entries or [], start=1)]
    named = labels.get("name")
    return named if is_text(named) else "", rows, {label: labels[label] for label in LABELS if label in labels}


def _begins_with_an_object(text: str) -> bool:
    """Whether the first line is a JSON object of its own, as in JSON Lines."""
    try:
        return isinstance(json.loads(text.strip().partition("\n")[0]), dict)
    except (ValueError, RecursionError):
        return False


def _transposed(data: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The rows of an object of columns, as pandas writes one, or of one pair alone; None for others."""
    if not are_names(list(data)):
        return None
    values = {name: _by_row(data, column) if isinstance(column, dict) else column for name, column in data.items()}
    columns = {name: column for name, column in values.items() if isinstance(column, list)}
    if len(columns) == len(data) and len({len(column) for column in columns.values()}) == 1:
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return [data]


def _by_row(data: dict[str, Any], column: dict[str, Any]) -> list[Any]:
    """The values of a column, in the order in which the first column has its rows."""
    first = next(each for each in data.values() if isinstance(each, dict))
    if column.keys() != first.keys():
        raise PromptError("The columns of the JSON have different rows: each must have a value for every row.")
    return [column[row] for row in first]


def _object(where: str, entry: Any) -> Row:
    if not isinstance(entry, dict):
        raise PromptError(f"{where}: expected an object with clean, corrupt, answers and wrong_answers.")
    return where, entry


def _from_lines(text: str) -> tuple[list[Row], dict[str, Any]]:
    rows: list[Row] = []
    labels: dict[str, Any] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        entry = json_of(line, number)
        if not rows and not labels and isinstance(entry, dict) and entry and set(entry) <= set(LABELS):
            labels = entry
            continue
        rows.append(_object(f"Line {number}", entry))
        check_rows(len(rows))
    return rows, labels


def _from_table(text: str, delimiter: str) -> tuple[list[Row], dict[str, Any]]:
    first_line = 1
    if (said := re.match(r'"?sep=(.)"?\r?\n', text, re.IGNORECASE)) is not None:  # for Excel
        text, delimiter, first_line = text[said.end() :], said[1], 2
    elif delimiter == ",":
        delimiter = _delimiter(text)
    lines = _rows(text, delimiter, first_line)
    first = next(lines, (first_line, []))
    names, needed = list(COLUMNS), 2
    if named := are_names(first[1]):
        names = [name.strip() for name in first[1]]
        _check_twice(names, first[0])
        columns = Columns.of(names, f"Line {first[0]}")
        needed = 1 + max(names.index(columns.clean), names.index(columns.corrupt))
    elif are_names([cell.strip().strip("'\"") for cell in first[1]]):
        raise PromptError(
            f"Line {first[0]}: cells stand in quotes that are none of a table's: put them in double quotes, without "
            "spaces before these, or in none."
        )
    rows: list[Row] = []
    labels: dict[str, Any] = {}
    for line, cells in lines if named else chain([first], lines):
        if not needed <= len(cells) <= len(names):
            raise _wrong_width(line, len(cells), names, delimiter)
        if named and len(cells) > 1 and are_only_names(cells):
            raise PromptError(f"Line {line} holds names of columns again: leave it out, or take in two files.")
        cells += [""] * (len(names) - len(cells))
        values = dict(zip(names, map(_uncomputed, cells), strict=True))
        given = {label: json_of(values[label], line) for label in LABELS if values.get(label)}
        if given and not rows and not labels:
            labels = given
            continue
        if given:
            raise PromptError(f"Line {line}: '{next(iter(given))}' belongs in the first row under the header, once.")
        rows.append((f"Line {line}", {name: values[name] for name in names}))
        check_rows(len(rows))
    return rows, labels


def _check_twice(names: list[str], line: int) -> None:
    """Refuse two columns of one name; those without one, and with nothing to tell them apart, get numbers."""
    nameless = 0
    for i, name in enumerate(names):
        if not name:
            nameless += 1
            names[i] = " " * nameless
        elif name in names[:i]:
            raise PromptError(f"Line {line}: two columns are called '{name[:40]}': give them different names.")


def _delimiter(text: str) -> str:
    """What separates the cells: that with which the first line holds names, or the first lines the same few cells."""
    beginning = text[:200_000]
    tables: dict[str, list[list[str]]] = {}
    for delimiter in ",;\t":
        with suppress(csv.Error):
            lines = csv.reader(io.StringIO(beginning, newline=""), delimiter=delimiter)
            tables[delimiter] = [cells for cells in islice(lines, 20) if cells]
    with_names = [each for each, lines in tables.items() if lines and len(lines[0]) > 1 and are_names(lines[0])]
    if with_names:
        return max(with_names, key=lambda each: len(tables[each][0]))
    even = (
        each
        for each, lines in tables.items()
        if len({len(cells) for cells in lines}) == 1 and 3 <= len(lines[0]) <= len(COLUMNS)
    )
    return next(even, ",")


def _rows(text: str, delimiter: str, line: int) -> Iterator[tuple[int, list[str]]]:
    """The rows of a table that are not empty, each with the line on which it begins; the text begins at this one."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    before = line
    try:
        for cells in reader:
            if cells:
                yield line, cells
            line = before + reader.line_num
    except csv.Error as error:
        raise PromptError(
            f"Line {line}: the row cannot be read ({error}). A cell that holds quotes, line ends or the separator must "
            "stand in double quotes, with the quotes in it doubled."
        ) from error


def _wrong_width(line: int, n: int, names: Sequence[str], delimiter: str) -> PromptError:
    hint = " Put a cell that holds a comma in double quotes, or separate by tabs." if delimiter == "," else ""
    expected = ", ".join(name[:40] or "one without a name" for name in names[:12])
    return PromptError(f"Line {line} has {counted(n, 'cell')}, and {len(names)} are expected ({expected}).{hint}")


# --- writing -------------------------------------------------------------------------------------------------------


def write(prompts: PromptSet, kind: str) -> str:
    """A prompt set in one of the `FORMATS`."""
    if kind == "json":
        return prompts.to_json()
    labels = prompts.labels()
    if kind == "jsonl":
        entries = [*([labels] if labels else []), *(entry_of(pair) for pair in prompts.pairs)]
        return "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=FORMATS[kind].delimiter)  # ends lines with both marks, so it quotes either
    writer.writerow([*COLUMNS, *labels])
    if labels:
        writer.writerow([*("" for _ in COLUMNS), *(json.dumps(value, ensure_ascii=False) for value in labels.values())])
    for pair in prompts.pairs:
        cells = [pair.clean, pair.corrupt, cell_of(pair.answers), cell_of(pair.wrong_answers)]
        writer.writerow([*map(_computed_as_text, cells), *("" for _ in labels)])
    return text.getvalue()


def _computed_as_text(cell: str) -> str:
    """The cell behind an apostrophe, if a spreadsheet would compute it."""
    return f"'{cell}" if _COMPUTED.match(cell) else cell


def _uncomputed(cell: str) -> str:
    """The inverse of `_computed_as_text`."""
    return cell[1:] if cell.startswith("'") and _COMPUTED.match(cell) else cell
