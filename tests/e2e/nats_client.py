"""Connects NUMBER times; each publishes 20 messages, one at a time, and one connection gets them all. Or connects as nobody."""
import asyncio
import sys

import nats

PORT, MODE = sys.argv[1:3]
EACH = 20


async def connect(password):
    url = f"nats://bob:{password}@127.0.0.1:{PORT}"

    async def ignore(_):
        pass

    return await nats.connect(url, allow_reconnect=False, error_cb=ignore)


async def main(number):
    got = asyncio.Semaphore(0)

    async def take(_):
        got.release()

    subscriber = await connect("right")
    await subscriber.subscribe("orders.*", cb=take)
    await subscriber.flush()
    publishers = [await connect("right") for _ in range(number)]

    async def publish(publisher):
        for _ in range(EACH):
            await publisher.publish("orders.new", b"hello")
            await publisher.flush()

    await asyncio.gather(*(publish(publisher) for publisher in publishers))
    for _ in range(number * EACH):
        await asyncio.wait_for(got.acquire(), 20)
    for connection in [*publishers, subscriber]:
        await connection.close()


async def refused():
    try:
        await connect("wrong")
    except Exception as error:
        print(error)


asyncio.run(refused() if MODE == "wrong" else main(int(MODE)))
