"""Uses datagram or unix stream sockets in one thread, and says what it did: sockets.py udp|unix

Says `ready` and waits for a line on standard input. Then one JSON line per call that moves bytes or fails: `way` (send or
receive), `data`, `length`, `errno`, `start_ns` and `end_ns` around the call, `own` and `other` (the port, or the inode
number of the unix socket; 0 if nobody says), and of what was received `arrived`: the send calls, `[start_ns, end_ns]` of the first and of the last,
in which it came; null if it came before the socket was known.
"""

import ctypes
import json
import os
import socket
import sys
import time

lines = []
sent = {}
libc = ctypes.CDLL(None, use_errno=True)


def call(way, data, own, other, action, length=None, arrived=None):
    start = time.monotonic_ns()
    error = 0
    try:
        result = action()
    except OSError as failed:
        result, error = failed, failed.errno
    end = time.monotonic_ns()
    if way == "send" and data:
        sent[data] = [start, end]
    if way == "receive" and data is None:
        data = result.decode() if error == 0 else ""
    size = 0 if error else len(data) if length is None else length
    known = [sent[part] for part in arrived] if arrived else None
    line = {"way": way, "data": data, "length": size, "errno": error, "start_ns": start, "end_ns": end}
    lines.append(line | {"own": own, "other": other, "arrived": known})
    return result


class Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_char_p), ("length", ctypes.c_size_t)]


class Message(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint),
        ("iov", ctypes.POINTER(Iovec)),
        ("iov_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    ]


class CountedMessage(ctypes.Structure):
    _fields_ = [("message", Message), ("length", ctypes.c_uint)]


def send_many(stream, texts):
    vectors = [Iovec(text.encode(), len(text)) for text in texts]
    messages = [CountedMessage(Message(None, 0, ctypes.pointer(vector), 1, None, 0, 0), 0) for vector in vectors]
    messages = (CountedMessage * len(texts))(*messages)
    assert libc.sendmmsg(stream.fileno(), messages, len(texts), 0) == len(texts)


def udp():
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.connect(server.getsockname())
    here, there = client.getsockname()[1], server.getsockname()[1]

    def send(text):
        call("send", text, here, there, lambda: client.send(text.encode()))

    def receive(arrived, how=None):
        call("receive", None, there, here, how or (lambda: server.recvfrom(2000)[0]), arrived=arrived)

    send("first")
    receive(None)
    # Read late, in order, each with its own arrival; looking at one takes none.
    for text in ("a", "bb", "ccc"):
        send(text)
        time.sleep(0.01)
    server.recv(100, socket.MSG_PEEK)
    receive(["a"])
    receive(["bb"], lambda: server.recvmsg(100)[0])
    # This call does not say who sent it.
    call("receive", None, there, 0, lambda: os.read(server.fileno(), 100), arrived=["ccc"])
    call("send", "by write", here, there, lambda: os.write(client.fileno(), b"by write"))
    receive(["by write"])
    # More than is captured.
    send("x" * 700)
    receive(["x" * 700])
    # From a socket that is not connected, and of the other family.
    other = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    other.bind(("::", 0))
    port = other.getsockname()[1]
    call("send", "six", port, there, lambda: other.sendto(b"six", ("::ffff:127.0.0.1", there)))
    call("receive", None, there, port, lambda: server.recvfrom(100)[0], arrived=["six"])
    # Several in one call.
    texts = [f"many {n}" for n in range(10)]
    start = time.monotonic_ns()
    send_many(client, texts)
    window = [start, time.monotonic_ns()]
    for n, text in enumerate(texts):
        sent[text] = window
        if n < 8:
            line = {"way": "send", "data": text, "length": len(text), "errno": 0, "start_ns": window[0]}
            lines.append(line | {"end_ns": window[1], "own": here, "other": there, "arrived": None})
    for n, text in enumerate(texts):
        # Of the arrivals that wait, the last eight are kept.
        receive([text] if n >= 2 else None)
    # Nobody there.
    server.close()
    call("send", "nobody", here, there, lambda: client.send(b"nobody"))
    time.sleep(0.01)
    call("receive", None, here, there, lambda: client.recv(100))


def inode(stream):
    return os.fstat(stream.fileno()).st_ino


def unix():
    name = sys.argv[2]
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(name)
    listener.listen(1)
    client = socket.socket(socket.AF_UNIX)
    client.connect(name)
    here = inode(client)
    # Sent before it is accepted.
    call("send", "early", here, 0, lambda: client.send(b"early"))
    server, _ = listener.accept()
    there = inode(server)

    def send(text):
        call("send", text, here, there, lambda: client.send(text.encode()))

    call("receive", None, there, here, lambda: server.recv(100), arrived=["early"])
    send("one")
    time.sleep(0.01)
    server.recv(100, socket.MSG_PEEK)
    call("receive", None, there, here, lambda: server.recvmsg(100)[0], arrived=["one"])
    # Two arrivals, read by one call; one arrival, by two.
    send("two")
    time.sleep(0.01)
    send("three")
    call("receive", None, there, here, lambda: os.read(server.fileno(), 100), arrived=["two", "three"])
    send("four")
    call("receive", None, there, here, lambda: server.recv(2), arrived=["four"])
    call("receive", None, there, here, lambda: server.recv(100), arrived=["four"])
    call("send", "by write", here, there, lambda: os.write(client.fileno(), b"by write"))
    call("receive", None, there, here, lambda: server.recv(100), arrived=["by write"])
    client.close()
    call("receive", None, there, here, lambda: server.recv(100))
    call("send", "", there, here, lambda: server.send(b"late"))
    server.close()


print("ready", flush=True)
sys.stdin.readline()
{"udp": udp, "unix": unix}[sys.argv[1]]()
for line in lines:
    print(json.dumps(line), flush=True)
