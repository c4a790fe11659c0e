"""Figures: pure functions of numbers, in Plotly and SVG. It imports `circuit.jobs` and the rooms below it."""
