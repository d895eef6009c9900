"""The asynchronous Postgres saver, at the module path of the official one."""

from langgraph_checkpoint_dual.postgres.savers import AsyncPostgresSaver

__all__ = ["AsyncPostgresSaver"]
