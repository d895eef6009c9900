"""The serializer that all savers share: langgraph's, made exact, loud, and unable to run what a row names.

It reads what `JsonPlusSerializer` wrote and writes what that one can read, in the same format, unless a type needs
more. Two rules differ:

- **Data, not code.** A type named in stored bytes is revived only if langgraph lists it as safe, if it was registered,
  or if it is a data class of a module that is already imported. Nothing is imported because a row says so.
- **Exact or refused.** What cannot come back as it went in is refused when it is written, naming the place in the
  value; what cannot be revived raises, and never turns into `None` or into a bare dict.

Deliberately kept from langgraph's serializer: tuples come back as lists, exceptions as their `repr`, dates in time
zones of other libraries at their offset, and dict keys that are enums, dates or UUIDs as their plain value.

`serializer.py` is the serializer; `trust.py` says what may be revived; `encoding.py` and `revival.py` (with
`generics.py`) say how objects are written and made again; `exact.py` (with `buffers.py`) writes what the fast way
cannot; `json_rows.py` reads langgraph's old format. How single objects are laid out in bytes is `wire.py`.
"""

from langgraph_checkpoint_dual.serde.serializer import Serializer, take_failure

__all__ = ["Serializer", "take_failure"]
