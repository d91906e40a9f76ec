"""pgvector's binary wire form: two 16-bit counts (dimension, unused), then big-endian numbers."""

from __future__ import annotations

import contextlib
import struct

import asyncpg
import numpy as np
import numpy.typing as npt

_HEAD = struct.Struct(">HH")


def encode_vector(value: npt.ArrayLike) -> bytes:
    """Return a float vector of shape (dimension,) as the server reads it."""
    numbers = np.asarray(value, dtype=">f4")
    return _HEAD.pack(numbers.size, 0) + numbers.tobytes()


def decode_vector(data: bytes) -> npt.NDArray[np.float32]:
    """Return the float vector, shape (dimension,), that the server sent."""
    return np.frombuffer(data, dtype=">f4", offset=_HEAD.size).astype(np.float32)


def encode_halfvec(value: npt.ArrayLike) -> bytes:
    """Return a vector of shape (dimension,) in half precision as the server reads it."""
    numbers = np.asarray(value, dtype=">f2")
    return _HEAD.pack(numbers.size, 0) + numbers.tobytes()


def decode_halfvec(data: bytes) -> npt.NDArray[np.float32]:
    """Return the half-precision vector, shape (dimension,), that the server sent."""
    return np.frombuffer(data, dtype=">f2", offset=_HEAD.size).astype(np.float32)


async def in_binary(connection: asyncpg.Connection[asyncpg.Record], schema: str) -> None:
    """Have a connection exchange vectors as numbers: sent as text, one costs as much as a search."""
    for name, encoder, decoder in (
        ("vector", encode_vector, decode_vector),
        ("halfvec", encode_halfvec, decode_halfvec),
    ):
        with contextlib.suppress(ValueError):  # before 0.7 pgvector has no halfvec
            await connection.set_type_codec(
                name, schema=schema, format="binary", encoder=encoder, decoder=decoder
            )
