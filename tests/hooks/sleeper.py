"""Answers one byte after each of its STEPS, and says how long each took: sleeper.py STEP...

The other end is a child of its own. Says `ready` and waits for a line on standard input before the first step.
"""

import json
import os
import select
import socket
import sys
import threading
import time


def schedstat():
    with open(f"/proc/self/task/{threading.get_native_id()}/schedstat") as file:
        return [int(word) for word in file.read().split()[:2]]


def throttled_ns():
    """How long the group of the v1 cpu controller has been throttled, if this process is in one of its own."""
    with open("/proc/self/cgroup") as file:
        groups = [line.strip().split(":", 2) for line in file]
    own = [path for _, controllers, path in groups if "cpu" in controllers.split(",") and path != "/"]
    if not own:
        return 0
    with open("/sys/fs/cgroup/cpu" + own[0] + "/cpu.stat") as file:
        return int(dict(line.split() for line in file)["throttled_time"])


def lock():
    held = threading.Lock()
    held.acquire()
    threading.Timer(0.08, held.release).start()
    held.acquire()


def stream():
    reader, writer = os.pipe()
    # A process: to start a thread means to wait for a lock.
    if os.fork() == 0:
        time.sleep(0.08)
        os.write(writer, b"x")
        os._exit(0)
    os.read(reader, 1)


def disk():
    with open(sys.argv[1] + "/file", "wb", buffering=0) as file:
        end = time.monotonic() + 0.1
        while time.monotonic() < end:
            file.write(b"x" * 65536)
            os.fsync(file.fileno())


def spin():
    end = time.thread_time() + 0.05
    while time.thread_time() < end:
        pass


STEPS = {
    "nap": lambda: time.sleep(0.005),
    "sleep": lambda: time.sleep(0.08),
    "poll": lambda: select.poll().poll(80),
    "lock": lock,
    "stream": stream,
    "disk": disk,
    "spin": spin,
}


def main():
    steps = sys.argv[2:]
    listener = socket.create_server(("127.0.0.1", 0))
    if os.fork() == 0:
        client = socket.create_connection(listener.getsockname())
        for _ in steps:
            client.sendall(b"q")
            client.recv(1)
        os._exit(0)
    connection, _ = listener.accept()
    print("ready", flush=True)
    sys.stdin.readline()
    for step in steps:
        connection.recv(1)
        throttled, before, start = throttled_ns(), schedstat(), time.monotonic_ns()
        STEPS[step]()
        end, after = time.monotonic_ns(), schedstat()
        throttled = throttled_ns() - throttled
        connection.sendall(b"a")
        cpu_ns, delay_ns = (b - a for a, b in zip(before, after))
        print(json.dumps({"step": step, "tid": threading.get_native_id(), "wall_ns": end - start,
                          "cpu_ns": cpu_ns, "delay_ns": delay_ns, "throttled_ns": throttled}), flush=True)


main()
