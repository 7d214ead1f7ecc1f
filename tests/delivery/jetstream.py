"""A NATS server that goes and comes as it is told, and a consumer (nats-py) that reads its stream.

Arguments: the control port, a folder. Commands: `url`; `stop`, `start` (the server is killed; what it stored stays), `pause`, `resume`;
`full` and `roomy` change the stream; `seen` tells what was read.
"""

import asyncio
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading

import nats
from judge import Seen, serve, spans_of
from nats.js.api import DiscardPolicy, StreamConfig

FOLDER = sys.argv[2]
SEEN = Seen()
IDS = {}


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


PORT = free_port()
CONFIG = os.path.join(FOLDER, "nats.conf")
with open(CONFIG, "w") as file:
    file.write(
        f"""
        listen: 127.0.0.1:{PORT}
        max_payload: 65536
        jetstream: {{ store_dir: "{FOLDER}/store" }}
        authorization: {{ users: [
          {{ user: agent, password: "open sesame", permissions: {{ publish: ["spans.>"], subscribe: ["_INBOX.>"] }} }},
          {{ user: judge, password: judge }}
        ] }}
        """
    )
SERVER = []


def end_together():
    """The server ends with the thread that starts it, so this is called by threads that stay (PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def start():
    server = os.path.join(os.path.dirname(sys.executable), "nats-server")
    SERVER.append(subprocess.Popen([server, "-c", CONFIG], stderr=sys.stderr, preexec_fn=end_together))


def stop():
    SERVER[-1].kill()
    SERVER[-1].wait()


def stream(full=False):
    return StreamConfig(
        name="SPANS",
        subjects=["spans.otlp"],
        discard=DiscardPolicy.NEW if full else DiscardPolicy.OLD,
        max_msgs=1 if full else -1,
    )


async def read(jetstream):
    """Reads the stream from its begin, for ever, through restarts of the server."""
    after = 0
    while True:
        try:
            message = await jetstream.get_msg("SPANS", seq=after + 1, next=True, subject="spans.otlp")
        except Exception:
            await asyncio.sleep(0.02)
            continue
        after = message.seq
        headers = message.headers or {}
        identity = headers.get("Nats-Msg-Id")
        if headers.get("content-type") != "application/x-protobuf" or identity is None or identity in IDS:
            SEEN.complain(f"{headers} at {after}, the same id at {IDS.get(identity)}")
        IDS[identity] = after
        SEEN.add(message.data, spans_of(message.data))


async def ignore(_):
    """Errors of a connection that goes and comes."""


async def connect():
    return await nats.connect(
        f"nats://127.0.0.1:{PORT}",
        user="judge",
        password="judge",
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.05,
        error_cb=ignore,
    )


start()
LOOP = asyncio.new_event_loop()
threading.Thread(target=LOOP.run_forever, daemon=True).start()


def now(coroutine):
    return asyncio.run_coroutine_threadsafe(coroutine, LOOP).result(30)


async def begin():
    while True:
        try:
            connection = await connect()
            jetstream = connection.jetstream()
            await jetstream.add_stream(stream())
            return jetstream
        except Exception:
            await asyncio.sleep(0.05)


JETSTREAM = now(begin())
asyncio.run_coroutine_threadsafe(read(JETSTREAM), LOOP)


async def again():
    start()


def told(coroutine):
    now(coroutine)
    return True


serve(
    int(sys.argv[1]),
    {
        "url": lambda: f"nats://127.0.0.1:{PORT}",
        "stop": stop,
        "start": lambda: told(again()),
        "pause": lambda: SERVER[-1].send_signal(signal.SIGSTOP),
        "resume": lambda: SERVER[-1].send_signal(signal.SIGCONT),
        "full": lambda: told(JETSTREAM.update_stream(stream(full=True))),
        "roomy": lambda: told(JETSTREAM.update_stream(stream())),
        "seen": SEEN.report,
    },
)
