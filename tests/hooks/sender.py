"""Sends messages of 1000 bytes at once, each by one write: sender.py HOST PORT COUNT

Waits for a byte first.
"""

import socket
import sys

host, port, count = sys.argv[1:]
stream = socket.create_connection((host, int(port)))
stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
stream.recv(1)
for _ in range(int(count)):
    stream.send(b"x" * 1000)
stream.recv(1)
