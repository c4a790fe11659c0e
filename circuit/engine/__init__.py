"""The algorithm: a model with its edges, scores by gradients of masks, circuits by patching.

The only room that imports torch. It imports `circuit.edges` and `circuit.common`.
"""
