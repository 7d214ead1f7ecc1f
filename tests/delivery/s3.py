"""Object storage (moto) that fails as it is told; boto3 reads the objects back, botocore checks each signature.

Argument: the control port. Commands: `url` gives the endpoint; `fail STATUS CODE COUNT` answers the next requests so; `create` makes the
bucket; `key SECRET` is the secret that signatures have to be made with; `puts` counts requests that were taken; `seen` tells what was read.
"""

import gzip
import hashlib
import sys
import threading
import time

import boto3
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from judge import Seen, serve, spans_of
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

BUCKET, REGION, TOKEN = "traces", "eu-west-1", "session"
SEEN = Seen()
STATE = {"failures": [], "puts": 0, "secret": ""}
LOCK = threading.Lock()


def error(code):
    return f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>as the test says</Message></Error>'.encode()


def signature_is_right(environ, body):
    """Whether botocore signs the request the same way."""
    authorization = environ.get("HTTP_AUTHORIZATION", "")
    names = authorization.partition("SignedHeaders=")[2].partition(",")[0].split(";")
    header = lambda name: environ.get("HTTP_" + name.upper().replace("-", "_"), environ.get(name.upper().replace("-", "_")))  # noqa: E731
    request = AWSRequest("PUT", f"http://{environ['HTTP_HOST']}{environ['RAW_URI']}", {n: header(n) for n in names}, body)
    request.context["timestamp"] = header("x-amz-date")
    auth = S3SigV4Auth(Credentials("key", STATE["secret"], TOKEN), "s3", REGION)
    text = auth.string_to_sign(request, auth.canonical_request(request))
    is_body = hashlib.sha256(body).hexdigest() == header("x-amz-content-sha256")
    has_all = {"host", "x-amz-date", "x-amz-content-sha256", "x-amz-security-token", "x-amz-storage-class"} <= set(names)
    return is_body and has_all and authorization.endswith(f"Signature={auth.signature(text, request)}")


class Store:
    """moto, behind what the test wants to fail."""

    def __init__(self):
        self.moto = DomainDispatcherApplication(create_backend_app)

    def __call__(self, environ, start_response):
        is_agent = environ.get("HTTP_USER_AGENT", "").startswith("spantap/")
        if not is_agent:
            return self.moto(environ, start_response)
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        status = None
        with LOCK:
            if STATE["failures"]:
                status, code = STATE["failures"].pop(0)
        if status is None and not signature_is_right(environ, body):
            status, code = "403 Forbidden", "SignatureDoesNotMatch"
        if status is not None:
            start_response(status, [("content-type", "application/xml")])
            return [error(code)]
        environ["wsgi.input"] = __import__("io").BytesIO(body)

        def started(status, headers, *more):
            with LOCK:
                STATE["puts"] += status.startswith("200")
            return start_response(status, headers, *more)

        return self.moto(environ, started)


SERVER = make_server("127.0.0.1", 0, Store(), threaded=True)
URL = f"http://127.0.0.1:{SERVER.server_port}"
threading.Thread(target=SERVER.serve_forever, daemon=True).start()
CLIENT = boto3.client("s3", endpoint_url=URL, region_name=REGION, aws_access_key_id="judge", aws_secret_access_key="judge")


def read():
    known = set()
    while True:
        time.sleep(0.05)
        try:
            pages = CLIENT.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
            names = [item["Key"] for page in pages for item in page.get("Contents", [])]
        except CLIENT.exceptions.NoSuchBucket:
            continue
        for name in names:
            if name in known:
                continue
            known.add(name)
            answer = CLIENT.get_object(Bucket=BUCKET, Key=name)
            body = gzip.decompress(answer["Body"].read())
            today = time.strftime("dt=%Y-%m-%d/hour=%H", time.gmtime())
            if not (name.startswith("agents/dt=20") and name.endswith(".binpb.gz") and len(today) == len(name.split("/", 1)[1].rsplit("/", 1)[0])):
                SEEN.complain(name)
            if answer["StorageClass"] != "STANDARD_IA":
                SEEN.complain(f"{name} is {answer['StorageClass']}")
            SEEN.add(body, spans_of(body))


def fail(status, code, count):
    with LOCK:
        STATE["failures"] = [(f"{status} as told", code)] * int(count)


def create():
    CLIENT.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})


threading.Thread(target=read, daemon=True).start()
serve(
    int(sys.argv[1]),
    {
        "url": lambda: URL,
        "fail": fail,
        "create": create,
        "key": lambda secret: STATE.update(secret=secret),
        "puts": lambda: STATE["puts"],
        "seen": SEEN.report,
    },
)
