"""Faults that are really caused, and what must hold afterwards."""
