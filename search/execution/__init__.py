"""Trials at work: the worker's loop, the runner of one trial, the supervisor and its live view.

What starts workers (on this machine, on a Ray cluster) is in `launchers`.
"""
