"""Small models whose circuit is known, because their weights were compiled from a program.

assembly   a GPT-2 put together by hand: named parts of the stream, heads and neurons that read and write them
programs   the three programs, each with its circuit as data
tasks      prompt pairs that the models do
compile    writes the folders below: `python -m circuit.models.known.compile`
circuits   the circuit that lies beside a model's weights

induction/, selection/ and brackets/ are the models, in Hugging Face format, each with its `circuit.json` and its card.
"""

from pathlib import Path

FOLDER = Path(__file__).parent
"""Holds a folder for each model."""
KEYS = {"known-induction": "induction", "known-selection": "selection", "known-brackets": "brackets"}
"""The models' keys in the catalogue, and their folders."""
