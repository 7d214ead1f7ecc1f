"""Calls of a language model's API by the clients of OpenAI and Anthropic: genai.py serve | serve_tls | talk ADDRESS ROUNDS | talk_tls
ADDRESS ROUNDS.

No model was at hand: the server is a script that answers in the shapes that both APIs document. It prints its port when it listens. A client
prints a line for each call: operation, model asked for, model that answered, tokens of the prompt and of the answer as the client
understood them (`-`: the answer did not say), and how it ended.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# Longer than what is captured of a call that begins with no head.
TEXT = "Nobody but the client may read this. " * 80


def chunk(delta, usage=None):
    choices = [] if usage else [{"index": 0, "delta": delta, "finish_reason": None}]
    return {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-test-0601", "choices": choices, "usage": usage}


def message_events():
    usage = {"input_tokens": 25, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 0, "output_tokens": 1}
    message = {"id": "m-1", "type": "message", "role": "assistant", "model": "claude-test-0601", "content": [], "stop_reason": None, "usage": usage}
    yield "message_start", {"message": message}
    yield "content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}
    for word in TEXT.split()[:40]:
        yield "content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": word}}
    yield "content_block_stop", {"index": 0}
    yield "message_delta", {"delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": 40}}
    yield "message_stop", {}


class Api(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, events):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in events:
            data = event.encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.write(b"0\r\n\r\n")

    def chat(self, asked):
        usage = {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}
        if asked.get("stream"):
            chunks = [chunk({"role": "assistant", "content": ""})] + [chunk({"content": word}) for word in TEXT.split()[:40]]
            if asked.get("stream_options", {}).get("include_usage"):
                chunks.append(chunk({}, usage))
            return self.stream([f"data: {json.dumps(one)}\n\n" for one in chunks] + ["data: [DONE]\n\n"])
        choice = {"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}
        self.answer(200, {"id": "c-1", "object": "chat.completion", "created": 1, "model": "gpt-test-0601", "choices": [choice], "usage": usage})

    def messages(self, asked):
        if asked.get("stream"):
            return self.stream(f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n" for kind, data in message_events())
        usage = {"input_tokens": 25, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 0, "output_tokens": 40}
        content = [{"type": "text", "text": "short"}]
        self.answer(200, {"id": "m-1", "type": "message", "role": "assistant", "model": "claude-test-0601", "content": content, "stop_reason": "end_turn", "stop_sequence": None, "usage": usage})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if asked["model"] == "no-such-model":
            return self.answer(404, {"error": {"message": "there is no such model", "type": "invalid_request_error", "code": "model_not_found"}})
        if self.path.endswith("/chat/completions"):
            self.chat(asked)
        elif self.path.endswith("/embeddings"):
            data = [{"object": "embedding", "index": 0, "embedding": [0.5] * 8}]
            self.answer(200, {"object": "list", "data": data, "model": "embed-test", "usage": {"prompt_tokens": 5, "total_tokens": 5}})
        else:
            self.messages(asked)


def tell(operation, model, answered, prompt, answer, end="ok"):
    print(operation, model, answered or "-", prompt if prompt is not None else "-", answer if answer is not None else "-", end, flush=True)


def talk_openai(client):
    import openai

    hello = [{"role": "user", "content": "a secret"}]
    said = client.chat.completions.create(model="gpt-test", messages=hello)
    tell("chat", "gpt-test", said.model, said.usage.prompt_tokens, said.usage.completion_tokens)
    for options in [{"stream_options": {"include_usage": True}}, {}]:
        model, usage = None, None
        for part in client.chat.completions.create(model="gpt-stream", messages=hello, stream=True, **options):
            model, usage = part.model, part.usage or usage
        tell("chat", "gpt-stream", model, usage and usage.prompt_tokens, usage and usage.completion_tokens)
    said = client.embeddings.create(model="embed", input="a secret", encoding_format="float")
    tell("embeddings", "embed", said.model, said.usage.prompt_tokens, None)
    try:
        client.chat.completions.create(model="no-such-model", messages=hello)
    except openai.NotFoundError:
        tell("chat", "no-such-model", None, None, None, "404")


def talk_anthropic(client):
    hello = [{"role": "user", "content": "a secret"}]
    said = client.messages.create(model="claude-test", max_tokens=99, messages=hello)
    cached = said.usage.cache_read_input_tokens + said.usage.cache_creation_input_tokens
    tell("chat", "claude-test", said.model, said.usage.input_tokens + cached, said.usage.output_tokens)
    with client.messages.stream(model="claude-stream", max_tokens=99, messages=hello) as stream:
        said = stream.get_final_message()
    cached = said.usage.cache_read_input_tokens + said.usage.cache_creation_input_tokens
    tell("chat", "claude-stream", said.model, said.usage.input_tokens + cached, said.usage.output_tokens)


def secured(server):
    import ssl
    import subprocess
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        key, certificate = f"{folder}/key.pem", f"{folder}/certificate.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout", key, "-out", certificate],
            check=True,
            stderr=subprocess.DEVNULL,
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
    # Not in accept(), which is one thread's for all connections.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    return server


if sys.argv[1].startswith("serve"):
    SERVER = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    if sys.argv[1] == "serve_tls":
        SERVER = secured(SERVER)
    print(SERVER.server_port, flush=True)
    SERVER.serve_forever()
else:
    import anthropic
    import openai

    url = f"{'https' if sys.argv[1] == 'talk_tls' else 'http'}://{sys.argv[2]}"
    options = {"api_key": "sk-secret", "max_retries": 0}
    # The certificate is nobody's.
    openai_client = openai.OpenAI(base_url=f"{url}/v1", http_client=openai.DefaultHttpxClient(verify=False), **options)
    anthropic_client = anthropic.Anthropic(base_url=url, http_client=anthropic.DefaultHttpxClient(verify=False), **options)
    for _ in range(int(sys.argv[3])):
        talk_openai(openai_client)
        talk_anthropic(anthropic_client)
