"""A process whose last thread never used a socket or file: last_thread.py PORT

The first thread waits for a byte from the port, sends one back, and ends, alone.
"""

import ctypes
import os
import socket
import sys
import threading
import time

SYS_EXIT = 60


def outlive():
    time.sleep(0.5)
    os._exit(0)


stream = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
stream.recv(1)
stream.send(b"x")
threading.Thread(target=outlive).start()
ctypes.CDLL(None).syscall(SYS_EXIT, 0)
