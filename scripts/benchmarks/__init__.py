"""Measures against named rivals, each run by `scripts/bench NAME`, and the bank they replay."""
