"""What an edge is: the graph of a model, methods that score it, rankings, filters, subgraphs, sentences.

Numbers only: numpy, networkx and pandas, never torch. It imports `circuit.common`.
"""
