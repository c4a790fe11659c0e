"""The parts of the pages about a run, 2 · Attribute to Sweep."""
