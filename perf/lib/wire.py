"""gRPC over HTTP/2 by hand: as little as it takes to ask one question, or to open a stream and never read it.

A client library would read in the background whatever its user does. No compression of headers, no flow control beyond
the initial windows: answers must be smaller than 64 KiB.
"""

import socket
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
ACK = END_STREAM = 1
END_HEADERS = 4
CALL = 1


class Refused(Exception):
    """The server did not answer the question."""


class Call:
    """A connection with one call on it."""

    def __init__(self, port, method, message, timeout):
        """Asks; with a first `message`, and without saying that it was the last."""
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        try:
            self.socket.sendall(PREFACE + frame(SETTINGS, 0, 0, b"") +
                                frame(HEADERS, END_HEADERS, CALL, head(port, method)) +
                                frame(DATA, 0, CALL, struct.pack(">BI", 0, len(message)) + message))
        except OSError:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def finish(self):
        """Says that no more messages follow."""
        self.socket.sendall(frame(DATA, END_STREAM, CALL, b""))

    def answer(self):
        """The next message of the server."""
        body = b""
        while len(body) < 5 or len(body) < 5 + struct.unpack(">I", body[1:5])[0]:
            kind, flags, payload = self.receive()
            if kind == DATA:
                body += payload
            elif kind in (SETTINGS, PING) and not flags & ACK:
                self.socket.sendall(frame(kind, ACK, 0, payload if kind == PING else b""))
            if kind in (RST_STREAM, GOAWAY) or kind in (DATA, HEADERS) and flags & END_STREAM:
                if not body:
                    raise Refused("the call ended without an answer")
        return body[5:5 + struct.unpack(">I", body[1:5])[0]]

    def receive(self):
        """Kind, flags and payload of the next frame."""
        first, kind, flags, _ = struct.unpack(">IBBI", b"\0" + self.exactly(9))
        return kind, flags, self.exactly(first)

    def exactly(self, count):
        data = b""
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            if not part:
                raise Refused("the server closed the connection")
            data += part
        return data


def ask(port, method, message, timeout):
    """The answer to a question."""
    with Call(port, method, message, timeout) as call:
        call.finish()
        return call.answer()


def frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def head(port, method):
    """Header fields as literals without index; names and values are shorter than 127 bytes."""
    fields = ((":method", "POST"), (":scheme", "http"), (":path", f"/etcdserverpb.{method}"),
              (":authority", f"127.0.0.1:{port}"), ("content-type", "application/grpc"), ("te", "trailers"))
    text = lambda value: bytes([len(value)]) + value.encode()
    return b"".join(b"\0" + text(name) + text(value) for name, value in fields)
