"""The blocking Postgres saver, at the module path of the official one."""

from langgraph_checkpoint_dual.postgres.savers import PostgresSaver

__all__ = ["PostgresSaver"]
