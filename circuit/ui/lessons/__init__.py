"""The lessons of the Learn page, one file each; their numbers come from `circuit.jobs.lessons`."""
