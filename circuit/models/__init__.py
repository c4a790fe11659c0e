"""From a name to a model: the catalogue, fetching, loading, and the teaching model that ships with Edgescope.

The web process imports it too, so torch and `circuit.engine` are imported where a model is really loaded.
"""
