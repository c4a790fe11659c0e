"""Takes as long to import as torch from a cold disk."""

import time

time.sleep(4)
