"""Calls on TCP and unix sockets in a thread that datagrams for another socket of it interrupt: interrupted.py ROUNDS

Datagrams and the TCP peer's answers come from children on the second CPU. Says `ready` and waits for a line on standard input. Then one JSON
line per call: its text, which is its own in each direction, `way` (send or receive), and `start_ns` and `end_ns` around it.
"""

import json
import os
import socket
import sys
import time

# An end if nobody says that it is over.
DATAGRAMS_MAX = 100_000
PAUSE_S = 30e-6


def child(work):
    if os.fork() == 0:
        os.sched_setaffinity(0, {1})
        try:
            work()
        finally:
            os._exit(0)


def echo(address):
    peer = socket.create_connection(address)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while data := peer.recv(100):
        peer.sendall(data)


def disturb(address, signals):
    signals.recv(1)
    stream = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    stream.connect(address)
    signals.setblocking(False)
    for _ in range(DATAGRAMS_MAX):
        stream.send(b"disturbs")
        time.sleep(PAUSE_S)
        try:
            if not signals.recv(1):
                return
        except BlockingIOError:
            pass


def main():
    rounds = int(sys.argv[1])
    listener = socket.create_server(("127.0.0.1", 0))
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind(("127.0.0.1", 0))
    datagrams.setblocking(False)
    child(lambda: echo(listener.getsockname()))
    tcp, _ = listener.accept()
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    here, there = socket.socketpair()
    mine, others = socket.socketpair()

    def disturbing():
        mine.close()
        disturb(datagrams.getsockname(), others)

    child(disturbing)
    others.close()
    lines = []

    def call(text, way, action):
        start = time.monotonic_ns()
        result = action()
        lines.append({"text": text, "way": way, "start_ns": start, "end_ns": time.monotonic_ns()})
        assert way == "send" or result == text.encode(), result

    print("ready", flush=True)
    sys.stdin.readline()

    mine.send(b"x")
    for n in range(rounds):
        for sender, reader, kind in ((tcp, tcp, "tcp"), (here, there, "unix")):
            text = f"{kind} {n:06}"
            call(text, "send", lambda: sender.send(text.encode()))
            call(text, "receive", lambda: reader.recv(100))
        try:
            while True:
                datagrams.recv(100)
        except BlockingIOError:
            pass
    mine.close()
    for line in lines:
        print(json.dumps(line))


main()
