"""WebSockets by the package `websockets`: websocket.py serve | talk ADDRESS CONNECTIONS COUNT.

A server prints its port when it listens, and sends back what it gets. A client prints how many messages came back.
"""

import sys
import threading

from websockets.sync.client import connect
from websockets.sync.server import serve

LOCK = threading.Lock()


def echo(connection):
    for message in connection:
        connection.send(message)


def talk(address, index, count):
    # What the server is asked for must not be taken for a request of its own.
    messages = ["GET /wrong HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n", "x" * 70_000]
    came = 0
    with connect(f"ws://{address}/socket/{index}", compression=None, max_size=None) as connection:
        for number in range(count):
            connection.send(messages[number % len(messages)])
            came += connection.recv() == messages[number % len(messages)]
    with LOCK:
        print(came, flush=True)


if sys.argv[1] == "serve":
    with serve(echo, "127.0.0.1", 0, compression=None, max_size=None) as server:
        print(server.socket.getsockname()[1], flush=True)
        server.serve_forever()
else:
    threads = [
        threading.Thread(target=talk, args=(sys.argv[2], index, int(sys.argv[4]))) for index in range(int(sys.argv[3]))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
