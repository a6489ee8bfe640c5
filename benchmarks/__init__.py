"""One command per claim; each prints JSON."""
