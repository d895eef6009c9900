"""The blocking SQLite saver, at the module path of the official one."""

from langgraph_checkpoint_dual.sqlite.savers import SqliteSaver

__all__ = ["SqliteSaver"]
