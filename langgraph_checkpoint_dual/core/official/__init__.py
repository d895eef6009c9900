"""The official savers' tables: read beside ours, and moved."""
