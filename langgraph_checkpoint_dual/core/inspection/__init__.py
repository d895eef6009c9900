"""Stored checkpoints as data to look at: what they hold, weigh and lack. Nothing is revived."""
