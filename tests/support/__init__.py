"""What the tests share: databases, the four savers, made-up checkpoints, graphs."""
