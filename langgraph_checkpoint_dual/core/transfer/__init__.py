"""Threads from one saver to another, and the proof that they arrived."""
