"""What is kept, and what is said of it: settings, scores, faithfulness, comparisons, links, exports.

It imports `circuit.prompts` and the rooms below it.
"""
