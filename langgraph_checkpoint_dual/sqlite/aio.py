"""The asynchronous SQLite saver, at the module path of the official one."""

from langgraph_checkpoint_dual.sqlite.savers import AsyncSqliteSaver

__all__ = ["AsyncSqliteSaver"]
