"""All workloads; importing this package registers them, in the order in which a run takes them."""

from importlib import import_module

from benchmarks.workload import WORKLOADS, Trial, Workload

for _module in (
    "chat",
    "agent",
    "states",
    "loading",
    "delta",
    "editing",
    "concurrency",
    "latency",
    "listing",
    "conversations",
):
    import_module(f"{__name__}.{_module}")

__all__ = ["WORKLOADS", "Trial", "Workload"]
