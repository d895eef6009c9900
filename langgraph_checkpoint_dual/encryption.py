"""Serializers that encrypt: a keyring of our own, and what is demanded of all of them.

The contract:

1. A serializer *encrypts* if it is langgraph's `EncryptedSerializer`, or a class of it, or its class has a true
   attribute `encrypts`. The types of what it stores have a `+` and the cipher's name at the end.
2. A saver whose serializer encrypts refuses stored values that are not encrypted, with `PlaintextError`: whoever can
   write to the database could else put values in place without the key. `plaintext="read"` is the way out.
3. `KeyringSerializer` authenticates what it encrypts, the type, the cipher and the id of the key. No key is ever in a
   text: not in a repr, a log or an error.
"""

from __future__ import annotations

import base64
import binascii
import copy
import os
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from typing_extensions import Self

from langgraph_checkpoint_dual.errors import ConfigError, DecodeError, PlaintextError
from langgraph_checkpoint_dual.serde import Serializer

PLAINTEXT = ("refuse", "read")
"""What may become of stored values that are not encrypted, where the serializer encrypts."""
_CIPHER = "aes-gcm"
_NONCE, _TAG = 12, 16  # the sizes that NIST SP 800-38D recommends
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SIZES = (16, 24, 32)


def encrypts(serde: SerializerProtocol) -> bool:
    """Whether a serializer encrypts what it stores."""
    return _encrypts(type(serde))


@lru_cache(64)  # isinstance() asks a Protocol, which is slow
def _encrypts(kind: type) -> bool:
    return issubclass(kind, EncryptedSerializer) or getattr(kind, "encrypts", False) is True


def refuses_plaintext(serde: SerializerProtocol) -> bool:
    """Whether values that are not encrypted are refused where this serializer reads them."""
    return _encrypts(type(serde)) and not getattr(serde, "reads_plaintext", False)


def reading_plaintext(serde: SerializerProtocol) -> SerializerProtocol:
    """The same serializer, for a saver that reads values that are not encrypted too."""
    if not refuses_plaintext(serde):
        return serde
    clone: Any = copy.copy(serde)
    clone.reads_plaintext = True
    reading: SerializerProtocol = clone
    return reading


def plaintext_error(name: str) -> PlaintextError:
    """The error for a stored value of a type that is not encrypted."""
    return PlaintextError(
        f"the stored value is not encrypted (its type is {name!r}), but the saver's serializer encrypts: somebody "
        "without the key may have put it there. If the database was begun without encryption, open the saver with "
        'plaintext="read"'
    )


class KeyringSerializer(SerializerProtocol):
    """Encrypts with AES-GCM, under one of several keys, so that keys can be changed. Needs the extra `encryption`.

    What is stored names its key, so what was stored under an older key stays readable as long as that is in the
    keyring. A value is bound to its type and its key, not to its row: the serializer does not learn of that.

    Args:
        keys: the keys, of 16, 24 or 32 random bytes, by id. An id is 1 to 64 letters, digits and `._-`; it is stored
            in the clear with every value.
        current: the id of the key that new values are encrypted with.
        serde: makes the bytes that are encrypted; `Serializer()` unless given.

    Raises:
        ConfigError: if an id or a key cannot be used.
        ImportError: if pycryptodome is missing.
    """

    encrypts = True
    reads_plaintext = False

    def __init__(self, keys: Mapping[str, bytes], *, current: str, serde: SerializerProtocol | None = None) -> None:
        try:
            from Crypto.Cipher import AES
        except ImportError as exc:
            raise ImportError(
                "KeyringSerializer needs pycryptodome: pip install 'langgraph-checkpoint-dual[encryption]'"
            ) from exc
        for key_id, key in keys.items():
            _check(key_id, key)
        if current not in keys:
            raise ConfigError(f"the keyring has no key {current!r} to encrypt with, only {_listed(keys)}")
        self.serde: SerializerProtocol = serde or Serializer()
        self.current = current
        self._keys = dict(keys)
        self._new, self._mode = AES.new, AES.MODE_GCM

    @classmethod
    def from_env(cls, variable: str = "LANGGRAPH_AES_KEYS", *, serde: SerializerProtocol | None = None) -> Self:
        """A keyring from an environment variable: `id:key` for each key, separated by blanks or commas.

        Keys are written in base64. The first is the current one.

        Raises:
            ConfigError: if it is not set, or cannot be understood. It never shows what the variable holds.
        """
        keys: dict[str, bytes] = {}
        for at, entry in enumerate(os.environ.get(variable, "").replace(",", " ").split(), 1):
            key_id, _, key = entry.partition(":")
            if not (_ID.fullmatch(key_id) and key) or key_id in keys:
                raise ConfigError(f"entry {at} of {variable} must be id:key, with a key in base64 and an id of its own")
            keys[key_id] = _decoded(key, f"of entry {at}", variable)
            if len(keys[key_id]) not in _SIZES:  # what stands for the id may be a key
                raise ConfigError(f"the key of entry {at} in {variable} must be 16, 24 or 32 bytes, in base64")
        if not keys:
            raise ConfigError(f"the environment variable {variable} is not set: it must hold id:key, the key in base64")
        return cls(keys, current=next(iter(keys)), serde=serde)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(keys {_listed(self._keys)}, current={self.current!r})"

    def with_msgpack_allowlist(self, extra_allowlist: Iterable[tuple[str, ...] | type]) -> Self:
        """As `Serializer.with_msgpack_allowlist`, for the serializer inside."""
        inner: Any = self.serde
        if not hasattr(inner, "with_msgpack_allowlist"):
            return self
        allowed = inner.with_msgpack_allowlist(extra_allowlist)
        if allowed is inner:
            return self
        clone = copy.copy(self)
        clone.serde = allowed
        return clone

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """Encode and encrypt."""
        inner, data = self.serde.dumps_typed(obj)
        name, nonce = f"{inner}+{_CIPHER}:{self.current}", os.urandom(_NONCE)
        cipher: Any = self._new(self._keys[self.current], self._mode, nonce=nonce, mac_len=_TAG)
        cipher.update(name.encode())
        encrypted, tag = cipher.encrypt_and_digest(data)
        return name, b"".join((nonce, tag, encrypted))

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """Decrypt and decode.

        Raises:
            PlaintextError: if it is not encrypted, unless the saver was told to read that.
            DecodeError: if it is of a key that is not in the keyring, or was changed.
        """
        name, stored = data
        inner, plus, suffix = name.rpartition("+")
        if not plus:
            if not self.reads_plaintext:
                raise plaintext_error(name)
            return self.serde.loads_typed(data)
        cipher_name, _, key_id = suffix.partition(":")
        if cipher_name != _CIPHER:
            raise DecodeError(f"the stored {name} was not encrypted by a KeyringSerializer; read it with what did")
        return self.serde.loads_typed((inner, self._decrypted(name, key_id, stored)))

    def _decrypted(self, name: str, key_id: str, stored: bytes) -> bytes:
        key = self._keys.get(key_id)
        if key is None:
            raise DecodeError(
                f"the stored value is encrypted with the key {key_id!r}, which the keyring does not have: it has "
                f"{_listed(self._keys)}"
            )
        try:
            cipher: Any = self._new(key, self._mode, nonce=bytes(stored[:_NONCE]), mac_len=_TAG)
            cipher.update(name.encode())
            found: bytes = cipher.decrypt_and_verify(stored[_NONCE + _TAG :], stored[_NONCE : _NONCE + _TAG])
        except ValueError:
            raise DecodeError(
                f"the stored value cannot be decrypted with the key {key_id!r}: it was changed, or encrypted with "
                "another key of this id"
            ) from None
        return found


def integrity_keys_from_env(variable: str = "LANGGRAPH_INTEGRITY_KEY") -> list[bytes] | None:
    """The `integrity_key=` of savers, from an environment variable; `None` if it is not set, or empty.

    Keys are written in base64, separated by blanks or commas. The first makes MACs.

    Raises:
        ConfigError: if one is no base64. It never shows what the variable holds.
    """
    return integrity_keys(os.environ.get(variable, ""), variable) or None


def integrity_keys(text: str, name: str) -> list[bytes]:
    """The keys in a text, as `integrity_keys_from_env`, which comes from a setting of this name."""
    return [_decoded(one, f"number {at}", name) for at, one in enumerate(text.replace(",", " ").split(), 1)]


def _check(key_id: Any, key: Any) -> None:
    """Check one key of a keyring."""
    if not (isinstance(key_id, str) and _ID.fullmatch(key_id)):
        raise ConfigError("the id of a key must be 1 to 64 letters, digits and signs of ._-")  # it may be a key
    if not isinstance(key, bytes) or len(key) not in _SIZES:
        raise ConfigError(f"the key {key_id!r} must be 16, 24 or 32 bytes")


def _decoded(key: str, which: str, variable: str) -> bytes:
    with_padding = key + "=" * (-len(key) % 4)
    try:
        return base64.b64decode(with_padding, altchars=b"-_" if {"-", "_"} & set(key) else None, validate=True)
    except (binascii.Error, ValueError):
        raise ConfigError(f"the key {which} in {variable} is no base64") from None


def _listed(keys: Iterable[str]) -> str:
    return ", ".join(map(repr, sorted(keys))) or "none"
