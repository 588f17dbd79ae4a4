"""A client of PostgreSQL's wire protocol, with as much of it as measuring needs: simple queries, no password."""

import socket
import struct


class SqlError(Exception):
    pass


class Client:
    def __init__(self, address, user="tidemill", database="tidemill"):
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        parameters = f"user\0{user}\0database\0{database}\0\0".encode()
        self.socket.sendall(struct.pack("!ii", 8 + len(parameters), 196608) + parameters)
        self._answer()

    def query(self, sql):
        """The rows of the last statement, as text; None is NULL."""
        body = sql.encode() + b"\0"
        self.socket.sendall(b"Q" + struct.pack("!i", 4 + len(body)) + body)
        return self._answer()

    def value(self, sql):
        return self.query(sql)[0][0]

    def close(self):
        self.socket.close()

    def _answer(self):
        rows, error = [], None
        while True:
            kind, body = self._message()
            if kind == b"D":
                rows.append(row(body))
            elif kind == b"T":
                rows = []
            elif kind == b"E":
                error = fields(body)
            elif kind == b"R" and body[:4] != b"\0\0\0\0":
                raise SqlError("the server asks for a password")
            elif kind == b"Z":
                break
        if error:
            raise SqlError(error)
        return rows

    def _message(self):
        head = self._take(5)
        return head[:1], self._take(struct.unpack("!i", head[1:])[0] - 4)

    def _take(self, n_bytes):
        while len(self.buffer) < n_bytes:
            received = self.socket.recv(1 << 16)
            if not received:
                raise SqlError("the server has closed the connection")
            self.buffer += received
        taken, self.buffer = self.buffer[:n_bytes], self.buffer[n_bytes:]
        return taken


def row(body):
    r"""
    >>> row(b"\0\2\0\0\0\1a\xff\xff\xff\xff")
    ['a', None]
    """
    values, at = [], 2
    for _ in range(struct.unpack("!h", body[:2])[0]):
        n_bytes = struct.unpack("!i", body[at:at + 4])[0]
        at += 4
        values.append(None if n_bytes < 0 else body[at:at + n_bytes].decode())
        at += max(n_bytes, 0)
    return values


def fields(body):
    r"""
    >>> fields(b"SERROR\0C42601\0Mno such thing\0\0")
    '42601 no such thing'
    """
    found = {part[:1]: part[1:].decode() for part in body.split(b"\0") if part}
    return f"{found.get(b'C')} {found.get(b'M')}"
