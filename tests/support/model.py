"""The model that savers are compared with: LangGraph's `InMemorySaver`, with what it leaves out done by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langgraph.checkpoint.memory import InMemorySaver


class Model(InMemorySaver):
    """`InMemorySaver` with `copy_thread`, `delete_for_runs` and `prune`."""

    def threads(self) -> list[str]:
        """Threads that anything is known of: checkpoints or writes."""
        return sorted({*self.storage, *(key[0] for key in self.writes)})

    def knows(self, thread_id: str) -> bool:
        return any(self.storage.get(thread_id, {}).values()) or any(key[0] == thread_id for key in self.writes)

    def ids(self, thread_id: str, checkpoint_ns: str) -> list[str]:
        return sorted(self.storage.get(thread_id, {}).get(checkpoint_ns, {}))

    def all_ids(self) -> list[str]:
        return sorted({found for spaces in self.storage.values() for ids in spaces.values() for found in ids})

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        for namespace, stored in self.storage[source_thread_id].items():
            self.storage[target_thread_id][namespace].update(stored)
        for (thread, *rest), writes in list(self.writes.items()):
            if thread == source_thread_id:
                self.writes[(target_thread_id, *rest)] = dict(writes)
        for (thread, *place), blob in list(self.blobs.items()):
            if thread == source_thread_id:
                self.blobs[(target_thread_id, *place)] = blob

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        for thread, spaces in self.storage.items():
            for namespace, stored in spaces.items():
                for found, (_, metadata, _) in list(stored.items()):
                    if self.serde.loads_typed(metadata).get("run_id") in run_ids:
                        self._drop(thread, namespace, found)

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        for thread in thread_ids:
            if strategy == "delete":
                self.delete_thread(thread)
                continue
            for namespace in list(self.storage.get(thread, {})):
                for found in self.ids(thread, namespace)[:-1]:
                    self._drop(thread, namespace, found)

    def _drop(self, thread_id: str, checkpoint_ns: str, checkpoint_id: str) -> None:
        """Remove a checkpoint and its writes; its children hang on its parent then."""
        stored = self.storage[thread_id][checkpoint_ns]
        _, _, parent = stored.pop(checkpoint_id)
        for child, (checkpoint, metadata, of_child) in stored.items():
            if of_child == checkpoint_id:
                stored[child] = (checkpoint, metadata, parent)
        self.writes.pop((thread_id, checkpoint_ns, checkpoint_id), None)


def matches(wanted: Mapping[str, Any], metadata: Mapping[str, Any]) -> bool:
    """Whether metadata contains the filter as Postgres `jsonb` containment has it; None also matches a missing key."""
    return all(
        (value is None and key not in metadata) or (key in metadata and contains(metadata[key], value))
        for key, value in wanted.items()
    )


def contains(whole: Any, part: Any) -> bool:
    """Postgres `whole @> part`, below the top level."""
    if isinstance(whole, dict) and isinstance(part, dict):
        return all(key in whole and contains(whole[key], value) for key, value in part.items())
    if isinstance(whole, list) and isinstance(part, list):
        return all(any(contains(item, wanted) for item in whole) for wanted in part)
    if isinstance(whole, bool) or isinstance(part, bool):
        return whole is part
    return not isinstance(whole, (dict, list)) and not isinstance(part, (dict, list)) and whole == part
