"""Who computes, knowing no job: the server, its queue, and the worker processes.

It carries any function of a picklable request. It imports `circuit.common`.
"""
