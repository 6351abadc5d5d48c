"""The service `peers.Echo` on grpcio. Usage: grpc_server.py PORT. Messages are bytes: no generated code.

Unary echoes; Fail fails in all ways that a client can see; Many answers N times; Sum counts; Chat echoes each; Hang says
one thing and waits for its client to leave; Left says how many have left it.
"""

import sys
import threading
from concurrent import futures

import grpc

left = 0
lock = threading.Lock()


def unary(request, context):
    kinds = [value for key, value in context.invocation_metadata() if key == "x-kind"]
    context.send_initial_metadata([("x-kind-seen", ",".join(kinds))])
    return request


def fail(_request, context):
    context.set_trailing_metadata([("reason", "because"), ("reason-bin", b"\x00\xff\x80")])
    context.abort(grpc.StatusCode.NOT_FOUND, "nobody – 50%")


def many(request, _context):
    for number in range(int(request)):
        yield str(number).encode()


def total(requests, _context):
    lengths = [len(request) for request in requests]
    return f"{len(lengths)} {sum(lengths)}".encode()


def chat(requests, _context):
    yield from requests


def hang(request, context):
    gone = threading.Event()

    def leave():
        global left
        with lock:
            left += 1
        gone.set()

    context.add_callback(leave)
    yield request
    gone.wait(60)


def left_so_far(_request, _context):
    return str(left).encode()


server = grpc.server(
    futures.ThreadPoolExecutor(64), options=[("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)]
)
handlers = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "Many": grpc.unary_stream_rpc_method_handler(many),
    "Sum": grpc.stream_unary_rpc_method_handler(total),
    "Chat": grpc.stream_stream_rpc_method_handler(chat),
    "Hang": grpc.unary_stream_rpc_method_handler(hang),
    "Left": grpc.unary_unary_rpc_method_handler(left_so_far),
}
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("peers.Echo", handlers)])
assert server.add_insecure_port(f"[::]:{sys.argv[1]}")
server.start()
server.wait_for_termination()
