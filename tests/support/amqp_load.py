"""A load on RabbitMQ: amqp_load.py PORT CONNECTIONS MESSAGES. Each connection has a queue of its own, `billing` and a number;
prints as one line of JSON how many messages came back, and the code of a request that fails.
"""

import json
import sys
import threading

import pika

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def exchange(port, number, messages, counts):
    connection = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", port))
    channel = connection.channel()
    queue = f"billing{number}"
    channel.queue_declare(queue, auto_delete=True)
    properties = pika.BasicProperties(headers={"traceparent": TRACE})
    for _ in range(messages):
        channel.basic_publish("", queue, b"x" * 100, properties)
    came = 0
    for method, _, _ in channel.consume(queue):
        channel.basic_ack(method.delivery_tag)
        came += 1
        if came == messages:
            break
    channel.cancel()
    counts.append(came)
    connection.close()


def failing(port):
    connection = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", port))
    try:
        connection.channel().queue_declare("absent", passive=True)
    except pika.exceptions.ChannelClosedByBroker as error:
        code = error.reply_code
    connection.close()
    return code


if __name__ == "__main__":
    port, connections, messages = (int(argument) for argument in sys.argv[1:])
    counts = []
    arguments = [(port, number, messages, counts) for number in range(connections)]
    threads = [threading.Thread(target=exchange, args=each) for each in arguments]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    print(json.dumps({"came": sum(counts), "failed": failing(port)}), flush=True)
