"""Write the models whose circuit is known: `python -m circuit.models.known.compile`.

    write      one program -> its folder: weights, tokenizer, circuit and card
    described  the card

It takes a second, and the same seeds give the same files. Nothing is trained, and nothing here imports torch.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from circuit.models.known import FOLDER, KEYS
from circuit.models.known.assembly import EPSILON, N_CONTEXT, N_SPARE
from circuit.models.known.programs import PROGRAMS, Program

CARD = FOLDER / "card.md"
"""The model card, with names in braces where words go."""


def write(program: Program, folder: Path) -> None:
    """All files of one model."""
    model = program.build()
    model.save(folder)
    circuit = {
        "ablation": "resample",
        "prompts": program.task.key,
        "edges": program.edges,
        "decoys": program.decoys,
    }
    (folder / "circuit.json").write_text(json.dumps(circuit, indent=1) + "\n")
    (folder / "README.md").write_text(described(program, folder))


def described(program: Program, folder: Path) -> str:
    """The card of a model that has been written."""
    config = json.loads((folder / "config.json").read_text())
    pair = program.task.pairs(1)[0]
    size = sum(file.stat().st_size for file in folder.iterdir() if file.name != "README.md")
    decoys = "\n".join(f"| {name} | {why} |" for name, why in program.decoys.items())
    return CARD.read_text().format(
        title=program.task.title,
        about=program.task.about,
        clean=pair.clean,
        corrupt=pair.corrupt,
        answer=pair.answers[0].strip(),
        wrong=pair.wrong_answers[0].strip(),
        n_layers=config["n_layer"],
        n_heads=config["n_head"],
        d_model=config["n_embd"],
        kilobytes=round(size / 1000),
        context=N_CONTEXT,
        epsilon=f"{EPSILON:.0e}".replace("e+0", "e"),
        n_spare=N_SPARE,
        algorithm="\n".join(f"{number}. {step}" for number, step in enumerate(program.algorithm, start=1)),
        edges="\n".join(f"| {name} | {why} |" for name, why in program.edges.items()),
        decoys=f"\n## Decoys: not in the circuit\n\n| edge | carries |\n| --- | --- |\n{decoys}\n" if decoys else "",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the models whose circuit is known.")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder to write to (default: where they ship)")
    options = parser.parse_args()
    for key, name in KEYS.items():
        write(PROGRAMS[key], options.out / name)
        print(f"{options.out / name}: {len(PROGRAMS[key].edges)} edges in the circuit")


if __name__ == "__main__":
    main()
