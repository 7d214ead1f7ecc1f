"""Unix sockets that come and go at the same few addresses: unix_reuse.py churn|stale PATH

Connects to PATH and waits for a byte first. `churn` opens and closes thousands of pairs, a few at a time. `stale` lets a child
end that has many connections open, says so, then serves as many at PATH.served. Says `done` at the end.
"""

import collections
import os
import socket
import sys

COUNT = 200
kind, path = sys.argv[1:]


def churn():
    held = collections.deque(socket.socketpair() for _ in range(16))
    for _ in range(6000):
        for end in held.popleft():
            end.close()
        one, other = socket.socketpair()
        one.send(b"x")
        other.recv(1)
        held.append((one, other))


def connections(listener):
    for _ in range(COUNT):
        client = socket.socket(socket.AF_UNIX)
        client.connect(listener.getsockname())
        client.send(b"x")
        server, _ = listener.accept()
        server.recv(1)
        yield client, server


def stale():
    own = socket.socket(socket.AF_UNIX)
    own.bind(path + ".own")
    own.listen(1)
    child = os.fork()
    if child == 0:
        held = list(connections(own))
        os._exit(0 if len(held) == COUNT else 1)
    assert os.waitpid(child, 0)[1] == 0
    served = socket.socket(socket.AF_UNIX)
    served.bind(path + ".served")
    served.listen(1)
    print("serves", flush=True)
    held = []
    for _ in range(COUNT):
        stream, _ = served.accept()
        assert stream.recv(1) == b"y"
        held.append(stream)


control = socket.socket(socket.AF_UNIX)
control.connect(path)
control.recv(1)
{"churn": churn, "stale": stale}[kind]()
print("done", flush=True)
