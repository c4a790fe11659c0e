"""What every page has: its frame, navigation, address, job panel, and what a session remembers."""
