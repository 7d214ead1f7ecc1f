"""GraphQL by Strawberry: graphql.py serve | talk ADDRESS ROUNDS; serve2 | talk2 ADDRESS ROUNDS over HTTP/2 without TLS.

The server (uvicorn; for HTTP/2 Hypercorn) prints its port when it listens. A client (gql over requests; for HTTP/2 httpx) prints a line for
each call: type and name of the operation (`-`: it has none), and `ok`, `partial` or `failed`.
"""

import socket
import sys


def app():
    import strawberry
    from strawberry.asgi import GraphQL

    @strawberry.type
    class Book:
        title: str

        @strawberry.field
        def broken(self) -> str | None:
            raise RuntimeError("a secret")

    @strawberry.type
    class Query:
        @strawberry.field
        def books(self, first: int = 3) -> list[Book]:
            return [Book(title="title " * 40) for _ in range(first)]

        @strawberry.field
        def never(self) -> str:
            raise RuntimeError("a secret")

    @strawberry.type
    class Mutation:
        @strawberry.mutation
        def add(self, title: str) -> Book:
            return Book(title=title)

    return GraphQL(strawberry.Schema(query=Query, mutation=Mutation), graphql_ide=None)


def listen():
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    return listener


def serve():
    import uvicorn

    uvicorn.Server(uvicorn.Config(app(), log_level="critical", lifespan="off")).run(sockets=[listen()])


def serve2():
    import asyncio

    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    config = Config()
    config.bind, config.accesslog, config.errorlog = [f"fd://{listen().detach()}"], None, None
    asyncio.run(serve(app(), config))


# What is asked, what the document says of it, and how it ends.
CALLS = [
    ("query Books($n: Int!) { books(first: $n) { title } }", {"n": 2}, "Books", "query Books ok"),
    ("{ books { title } }", None, None, "query - ok"),
    ('mutation Add { add(title: "a secret") { title } }', None, None, "mutation Add ok"),
    ("query One { books { title } } query Other { never }", None, "One", "query One ok"),
    ("query Part { books(first: 1) { title broken } }", None, "Part", "query Part partial"),
    ("query Never { never }", None, None, "query Never failed"),
]
# More than is captured, which is not needed.
LONG = "query Long { " + " ".join(f"alias{index}: books(first: 0) {{ title }}" for index in range(300)) + " }"
CALLS.append((LONG, None, "Long", "query Long ok"))


def outcome(said):
    if not said.get("errors"):
        return "ok"
    return "partial" if said.get("data") else "failed"


def talk(address, rounds):
    from gql import Client, gql
    from gql.transport.exceptions import TransportQueryError
    from gql.transport.requests import RequestsHTTPTransport

    with Client(transport=RequestsHTTPTransport(url=f"http://{address}/graphql"), fetch_schema_from_transport=False) as session:
        for document, variables, name, expected in CALLS * rounds:
            request = gql(document)
            request.variable_values, request.operation_name = variables, name
            try:
                session.execute(request)
                said = {}
            except TransportQueryError as error:
                said = {"errors": error.errors, "data": error.data}
            tell(expected, outcome(said))


def talk2(address, rounds):
    import httpx

    with httpx.Client(http1=False, http2=True) as client:
        for document, variables, name, expected in CALLS * rounds:
            # As Apollo's clients order it.
            body = {"operationName": name, "variables": variables or {}, "query": document}
            tell(expected, outcome(client.post(f"http://{address}/graphql", json=body).json()))


def tell(expected, came):
    assert expected.endswith(came), (expected, came)
    print(expected, flush=True)


if sys.argv[1].startswith("serve"):
    {"serve": serve, "serve2": serve2}[sys.argv[1]]()
else:
    {"talk": talk, "talk2": talk2}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
