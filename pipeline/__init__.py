"""What a photo goes through, shared by all scripts."""

import os

# Threads of OpenMP that wait for the others spin, and beside another busy process that is time taken from the very thread
# that they wait for. GNU's runtime reads this once, when torch loads it, so it is set by what every script imports first;
# child processes inherit it.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
