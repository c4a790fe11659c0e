"""A small transformer that really does five tasks, made for this app: what it learned, how, and the result.

tasks    the texts it learned from, and prompt pairs that it has not seen (no torch)
train    trains it: `python -m circuit.models.teaching.train`
model/   the result, in Hugging Face format, with its model card

model = circuit.load_model(FOLDER)
"""

from pathlib import Path

FOLDER = Path(__file__).parent / "model"
"""The trained model."""
