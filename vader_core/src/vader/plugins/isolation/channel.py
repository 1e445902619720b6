"""Messages between a run and an isolated reward: JSON objects, each after its length. Used on both sides."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

_HEAD = struct.Struct("!Q")


class Closed(Exception):
    """The other side has gone."""


class Channel:
    """One end of a socket pair."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def send(self, message: dict[str, Any]) -> None:
        """Send an object.

        Raises:
            Closed: the other side has gone.
        """
        data = json.dumps(message).encode()
        try:
            self._end.sendall(_HEAD.pack(len(data)) + data)
        except (BrokenPipeError, ConnectionError) as error:
            raise Closed from error

    def receive(self, timeout: float | None = None) -> dict[str, Any]:
        """Wait for an object.

        Args:
            timeout: seconds between bytes; None waits for ever.

        Raises:
            Closed: the other side has gone.
            TimeoutError: nothing came in time.
        """
        self._end.settimeout(timeout)
        (size,) = _HEAD.unpack(self._read(_HEAD.size))
        message: dict[str, Any] = json.loads(self._read(size))
        return message

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                part = self._end.recv(size - len(data))
            except ConnectionError as error:
                raise Closed from error
            if not part:
                raise Closed
            data += part
        return data

    def close(self) -> None:
        """Close this end."""
        self._end.close()
