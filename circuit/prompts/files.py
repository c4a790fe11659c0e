"""Prompt sets as files: JSON, JSON Lines, CSV and TSV, read as data only.

    FORMATS        the formats by the ending of their files
    read_file      the bytes of a file, by its name
    read_text      a pasted text, in whichever format it is
    write          a prompt set in one of the formats
    answers_of     several answers from one cell, and
    cell_of        back

    prompts = read_file(b"clean,corrupt,answers\\n...", "mine.csv")
    write(prompts, "jsonl")

Whatever is read, the result is a prompt set or a `PromptError` that names the line. What is written and read again is
the same in every format, but for the name of the set, which only JSON holds: the others are named after their file.

CSV and TSV have the columns clean, corrupt, answers and wrong_answers; a first line with these names may stand in any
order and have other columns too, which are not read. Without one, the columns are taken in this order. Labels of a set
(`seq_labels`, `word_idxs`) stand in columns of their own in a first row that holds no pair, and in a first line of JSON
Lines.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from circuit.common.errors import PromptError
from circuit.common.text import one_line
from circuit.common.words import counted, size
from circuit.prompts.pairs import (
    LONGEST_NAME,
    MOST_BYTES,
    MOST_ROWS,
    PromptPair,
    PromptSet,
    check_size,
    entry_of,
    is_text,
    json_of,
    labels_of,
    pair_of,
)

COLUMNS = ("clean", "corrupt", "answers", "wrong_answers")
LABELS = ("seq_labels", "word_idxs")
_CALLED = {
    "clean_prompt": "clean", "corrupt_prompt": "corrupt", "corrupted": "corrupt", "answer": "answers",
    "right": "answers", "right_answers": "answers", "wrong": "wrong_answers", "wrong_answer": "wrong_answers",
}  # fmt: skip


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


def read_file(data: bytes, filename: str) -> PromptSet:
    """Read a file; its ending says the format, and any other ending leaves it to the content.

    Raises:
        PromptError: When it is too large or cannot be read; names the line.
    """
    if len(data) > MOST_BYTES:
        raise PromptError(f"The file has {size(len(data))}, and {size(MOST_BYTES)} are the most.")
    path = PurePath(one_line(filename, LONGEST_NAME))
    kind = path.suffix.lower().removeprefix(".")
    return read_text(_decoded(data), path.stem or "prompts", kind if kind in FORMATS else None)


def read_text(text: str, name: str = "pasted prompts", kind: str | None = None) -> PromptSet:
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
        prompts = _from_json(text, name)
    elif kind == "jsonl":
        prompts = _from_lines(text, name)
    else:
        prompts = _from_table(text, name, FORMATS[kind].delimiter)
    check_size(prompts)
    return prompts


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


def _from_json(text: str, name: str) -> PromptSet:
    if text.lstrip().startswith("["):  # the list of pairs alone
        entries = json_of(text)
        return PromptSet(name, tuple(pair_of(f"Prompt {row}", entry) for row, entry in enumerate(entries, start=1)))
    return PromptSet.from_json(text, name)


def _from_lines(text: str, name: str) -> PromptSet:
    pairs: list[PromptPair] = []
    labels: dict[str, Any] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        entry = json_of(line, number)
        if not pairs and not labels and isinstance(entry, dict) and entry and set(entry) <= set(LABELS):
            labels = entry
            continue
        pairs.append(pair_of(f"Line {number}", entry))
        if len(pairs) > MOST_ROWS:
            raise PromptError(f"Line {number} is one prompt pair too many: {MOST_ROWS:,} are the most.")
    return PromptSet(name, tuple(pairs), *labels_of(labels))


def _from_table(text: str, name: str, delimiter: str) -> PromptSet:
    rows = _rows(text, delimiter)
    line, first = next(rows)
    header = [_column(cell) for cell in first]
    places = {column: place for place, column in enumerate(header) if column in (*COLUMNS, *LABELS)}
    pairs: list[PromptPair] = []
    labels: dict[str, Any] = {}
    if "clean" in places or "corrupt" in places:
        for needed in ("clean", "corrupt"):
            if needed not in places:
                raise PromptError(f"Line {line}: there is no column '{needed}' among {', '.join(first)[:200]}.")
        width = len(header)
    else:
        places, width = {column: place for place, column in enumerate(COLUMNS)}, len(COLUMNS)
        pairs.append(_from_cells(line, first, places, width, delimiter))
    for line, cells in rows:
        given = {
            label: json_of(cells[place], line)
            for label in LABELS
            if (place := places.get(label)) is not None and place < len(cells) and cells[place]
        }
        if given and not pairs and not labels:
            labels = given
            continue
        if given:
            raise PromptError(f"Line {line}: '{next(iter(given))}' belongs in the first row under the header, once.")
        pairs.append(_from_cells(line, cells, places, width, delimiter))
        if len(pairs) > MOST_ROWS:
            raise PromptError(f"Line {line} is one prompt pair too many: {MOST_ROWS:,} are the most.")
    return PromptSet(name, tuple(pairs), *labels_of(labels))


def _rows(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a table that are not empty, each with the line on which it begins."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        for cells in reader:
            if cells:
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise PromptError(
            f"Line {line}: the row cannot be read ({error}). A cell that holds quotes, line ends or the separator must "
            "stand in double quotes, with the quotes in it doubled."
        ) from error


def _column(cell: str) -> str:
    name = cell.strip().lower().replace(" ", "_")
    return _CALLED.get(name, name)


def _from_cells(line: int, cells: list[str], places: Mapping[str, int], width: int, delimiter: str) -> PromptPair:
    if len(cells) > width or len(cells) <= max(places["clean"], places["corrupt"]):
        hint = " Put a cell that holds a comma in double quotes, or separate by tabs." if delimiter == "," else ""
        raise PromptError(
            f"Line {line} has {counted(len(cells), 'cell')}, and {width} are expected "
            f"(clean, corrupt, answers, wrong_answers).{hint}"
        )
    clean, corrupt, answers, wrong = (
        cells[place] if (place := places.get(column)) is not None and place < len(cells) else "" for column in COLUMNS
    )
    return PromptPair(clean, corrupt, answers_of(answers), answers_of(wrong))


# --- several answers in one cell -----------------------------------------------------------------------------------


def answers_of(cell: str) -> tuple[str, ...]:
    """The answers in a cell: separated by `|`, or a JSON list of texts, which can hold any answer."""
    if cell.startswith("["):
        try:
            given = json.loads(cell)
        except (ValueError, RecursionError):
            given = None
        if isinstance(given, list) and all(is_text(answer) for answer in given):
            return tuple(given)
    return tuple(part for part in cell.split("|") if part)


def cell_of(answers: tuple[str, ...]) -> str:
    """The inverse of `answers_of`."""
    cell = "|".join(answers)
    return cell if answers_of(cell) == answers else json.dumps(answers, ensure_ascii=False)


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
        writer.writerow([*cells, *("" for _ in labels)])
    return text.getvalue()
