"""Neurons over the whole time axis in one kernel; the eager steps remain the reference."""
