"""From text to tokens: pairs, files and templates of them, what is wrong with which, presets, and verdicts.

It imports `circuit.models` for tokenizers, and the rooms below that.
"""
