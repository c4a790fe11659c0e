"""The tokens of a prompt pair, clean above corrupt, as HTML.

    columns_of   the two prompts aligned: one column per position, with gaps where one is shorter
    token_view   the picture

Positions that differ are underlined, bold and tinted, so that colour is not needed to see them; the first of them
carries an arrow. Hovering a token tells its id and what the vocabulary calls it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from html import escape
from itertools import zip_longest
from typing import NamedTuple

from circuit.models.tokenizer import PromptTokenizer, visible
from circuit.plots.colors import PALETTES
from circuit.prompts.checks import PairTokens, parting

MOST_COLUMNS = 240
"""Longer prompts are shown around the place where they part."""


class Column(NamedTuple):
    """One place of the alignment: positions in the clean and the corrupt prompt, None in a gap."""

    clean: int | None
    corrupt: int | None


def columns_of(clean: Sequence[int], corrupt: Sequence[int]) -> list[Column]:
    """Prompts of one length stand position by position, as edges compare them. Where lengths differ, what both have
    in common is aligned, with gaps where one has more."""
    if len(clean) == len(corrupt):
        return [Column(i, i) for i in range(len(clean))]
    start = parting(clean, corrupt)
    rest = min(len(clean), len(corrupt)) - start
    end = next((i for i in range(rest) if clean[-1 - i] != corrupt[-1 - i]), rest)
    middle = [ids[start : len(ids) - end] for ids in (clean, corrupt)]
    columns = [Column(i, i) for i in range(start)]
    for ours, theirs in _stretches(*middle):
        columns += [
            Column(None if a is None else start + a, None if b is None else start + b)
            for a, b in zip_longest(ours, theirs)
        ]
    return columns + [Column(len(clean) - i, len(corrupt) - i) for i in range(end, 0, -1)]


def _stretches(clean: Sequence[int], corrupt: Sequence[int]) -> Iterator[tuple[range, range]]:
    """What differs in stretches that stand one under the other, those that are the same again among them."""
    if max(len(clean), len(corrupt)) > MOST_COLUMNS:  # matching takes quadratic time, and nobody sees all of it
        yield range(len(clean)), range(len(corrupt))
        return
    for _, a, b, c, d in SequenceMatcher(None, clean, corrupt, autojunk=False).get_opcodes():
        yield range(a, b), range(c, d)


def token_view(pair: PairTokens, tokenizer: PromptTokenizer, labels: Sequence[str] = (), *, dark: bool) -> str:
    """HTML of a pair: its tokens, then its answers. `labels` name the positions, where there is one for each."""
    palette = PALETTES[dark]
    columns = columns_of(pair.clean, pair.corrupt)
    first = parting(pair.clean, pair.corrupt)
    start = 0 if len(columns) <= MOST_COLUMNS else max(0, min(first - 20, len(columns) - MOST_COLUMNS))
    shown = columns[start : start + MOST_COLUMNS]
    offset = len(pair.clean) - len(labels)  # a BOS token has no label
    cell = "padding:1px 3px;white-space:pre;border-radius:3px"
    strong = f"font-weight:700;text-decoration:underline;background:{palette.hurts}33"
    faint = f"color:{palette.faint};font-size:0.72rem;text-align:center"

    def token(ids: Sequence[int], place: int | None, which: str, differs: bool) -> str:
        if place is None:
            return f'<div style="{cell};color:{palette.faint}" title="{which}: nothing here">∅</div>'
        said = _hover(ids[place], tokenizer, f"{which}, position {place}")
        return f'<div style="{cell};{strong if differs else ""}" title="{said}">{_shown(ids[place], tokenizer)}</div>'

    parts = []
    for number, column in enumerate(shown, start=start):
        a, b = column
        differs = a is None or b is None or pair.clean[a] != pair.corrupt[b]
        head = "▼ parts" if number == first and differs else str(b if a is None else a)
        if a is not None and offset in (0, 1) and labels and a >= offset:
            head += f" {escape(labels[a - offset])}"
        parts.append(
            f'<div style="display:inline-block;vertical-align:top;margin:0 1px 6px"><div style="{faint}">{head}</div>'
            f"{token(pair.clean, a, 'clean', differs)}{token(pair.corrupt, b, 'corrupt', differs)}</div>"
        )
    names = "".join(f'<div style="{cell}">{name}</div>' for name in ("clean", "corrupt"))
    legend = (
        '<div style="display:inline-block;vertical-align:top;margin:0 6px 6px 0">'
        f'<div style="{faint}">&nbsp;</div><div style="color:{palette.faint}">{names}</div></div>'
    )
    left_out = len(columns) - len(shown)
    more = f'<span style="{faint}">{left_out} more positions are not shown</span>' if left_out else ""
    return (
        f'<div style="font-family:monospace;line-height:1.5">{legend}{"".join(parts)}{more}</div>'
        f'<div style="font-family:monospace;margin-top:4px">{_answers(pair, tokenizer, dark)}</div>'
    )


def _answers(pair: PairTokens, tokenizer: PromptTokenizer, dark: bool) -> str:
    palette = PALETTES[dark]
    parts = []
    for mark, words, ids, color in (
        ("✓", "right answer", pair.answers, palette.helps),
        ("✗", "wrong answer", pair.wrong_answers, palette.hurts),
    ):
        for token in ids[:40]:
            parts.append(
                f'<span style="border:1px solid {color};border-radius:3px;padding:1px 4px;margin-right:4px;'
                f'display:inline-block" title="{_hover(token, tokenizer, words)}">{mark} {_shown(token, tokenizer)}'
                "</span>"
            )
        if len(ids) > 40:
            parts.append(f'<span style="color:{palette.faint}">and {len(ids) - 40} more </span>')
    return f'<span style="color:{palette.faint};font-size:0.8rem">next </span>{"".join(parts)}' if parts else ""


def _shown(token: int, tokenizer: PromptTokenizer) -> str:
    return escape(visible(tokenizer.piece(token))) or "∅"


def _hover(token: int, tokenizer: PromptTokenizer, where: str) -> str:
    return escape(f"{where}: token {token}, '{tokenizer.raw(token)}' in the vocabulary", quote=True)
