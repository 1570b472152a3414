"""A study as a whole is made, filled and kept: opening, queue, transfer, recovery, clean-up.

What runs before the first worker starts, or between runs; nothing here trains.
"""
