"""AWS by moto and boto3: aws.py serve | talk ADDRESS ROUNDS.

The server prints its port when it listens. A client prints a line for each request that it sent: service, operation and HTTP status.
"""

import sys
import threading

LOCK = threading.Lock()


def serve():
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True)
    print(server.server_port, flush=True)
    server.serve_forever()


def talk(address, rounds):
    import boto3
    from botocore.config import Config
    from botocore.exceptions import ClientError

    session = boto3.Session("access", "a-secret-key", region_name="eu-central-1")
    session.events.register("needs-retry.*.*", tell)
    config = Config(retries={"max_attempts": 1, "mode": "standard"})
    client = lambda service: session.client(service, endpoint_url=f"http://{address}", config=config)  # noqa: E731
    s3, sqs, dynamodb = client("s3"), client("sqs"), client("dynamodb")
    s3.create_bucket(Bucket="orders", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    queue = sqs.create_queue(QueueName="orders")["QueueUrl"]
    key = [{"AttributeName": "id", "KeyType": "HASH"}]
    types = [{"AttributeName": "id", "AttributeType": "S"}]
    dynamodb.create_table(TableName="orders", KeySchema=key, AttributeDefinitions=types, BillingMode="PAY_PER_REQUEST")
    for number in range(rounds):
        s3.put_object(Bucket="orders", Key=f"order/{number}", Body=b"a secret" * 500)
        assert s3.get_object(Bucket="orders", Key=f"order/{number}")["Body"].read() == b"a secret" * 500
        s3.list_objects_v2(Bucket="orders")
        refused(ClientError, lambda: s3.head_object(Bucket="orders", Key="none"))
        refused(ClientError, lambda: s3.get_object(Bucket="none", Key="none"))
        s3.delete_object(Bucket="orders", Key=f"order/{number}")
        sqs.send_message(QueueUrl=queue, MessageBody="a secret")
        got = sqs.receive_message(QueueUrl=queue)["Messages"][0]
        sqs.delete_message(QueueUrl=queue, ReceiptHandle=got["ReceiptHandle"])
        dynamodb.put_item(TableName="orders", Item={"id": {"S": "a secret"}})
        dynamodb.get_item(TableName="orders", Key={"id": {"S": "a secret"}})
        refused(ClientError, lambda: dynamodb.get_item(TableName="none", Key={"id": {"S": "x"}}))


def refused(error, call):
    try:
        call()
    except error:
        return
    raise AssertionError("it was not refused")


def tell(response, operation, **_):
    with LOCK:
        print(operation.service_model.service_name, operation.name, response[0].status_code, flush=True)


if sys.argv[1] == "serve":
    serve()
else:
    talk(sys.argv[2], int(sys.argv[3]))
