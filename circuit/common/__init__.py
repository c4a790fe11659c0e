"""What belongs to nobody: errors, progress, settings, files, words. It imports nothing else of Edgescope."""
