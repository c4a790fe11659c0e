"""What can be computed in the background: functions `job(request, *, progress, cancelled)` of plain requests.

The web process imports them to name them, so torch is imported inside. They import `circuit.runs` and the rooms below;
`shards` and `sweep` also `circuit.workers`.
"""
