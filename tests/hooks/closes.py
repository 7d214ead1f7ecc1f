"""Ends TCP connections of its own in every way and says which was which: `port way`, by the port of the end that did so."""

import socket
import struct
import sys
import time

RESETS = struct.pack("ii", 1, 0)


def pair(listener):
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    client.sendall(b"ask")
    server.recv(3)
    return client, server


def close(client, server):
    client.close()


def half(client, server):
    client.shutdown(socket.SHUT_WR)


def half_and_close(client, server):
    client.shutdown(socket.SHUT_WR)
    server.recv(1)
    client.close()


def both(client, server):
    client.shutdown(socket.SHUT_RDWR)


def unread(client, server):
    server.sendall(b"answer")
    time.sleep(0.02)
    client.close()


def linger(client, server):
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESETS)
    client.close()


def half_after_peer(client, server):
    server.shutdown(socket.SHUT_WR)
    time.sleep(0.02)
    client.shutdown(socket.SHUT_WR)


def reset_by_peer(client, server):
    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESETS)
    server.close()
    time.sleep(0.02)
    client.close()


control = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
control.recv(1)
listener = socket.create_server(("127.0.0.1", 0))
for way in [close, half, half_and_close, both, unread, linger, half_after_peer, reset_by_peer]:
    client, server = pair(listener)
    print(client.getsockname()[1], way.__name__, flush=True)
    way(client, server)
    client.close()
    server.close()
