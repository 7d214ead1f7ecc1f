"""Reads from one socket, and says what it read: waiter.py tcp|udp|unix ADDRESS

Says `hello` to the other end first. One line on standard output per read; ends with the other end, or after `end`.
"""

import socket
import sys

kind, address = sys.argv[1:]
family = socket.AF_UNIX if kind == "unix" else socket.AF_INET
stream = socket.socket(family, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
host, _, port = address.rpartition(":")
stream.connect(address if kind == "unix" else (host, int(port)))
stream.send(b"hello")
while data := stream.recv(100):
    print(data.decode(), flush=True)
    if data == b"end":
        break
