"""Calls every method of `peers.Echo` with grpcio and prints what it saw as JSON. Usage: grpc_client.py HOST:PORT."""

import json
import queue
import sys
import time

import grpc

# Seconds for a call that should come to an end.
TIMEOUT = 20
MIB = 1 << 20


def method(channel, kind, name):
    return getattr(channel, kind)(f"/peers.Echo/{name}")


def unary(channel, message):
    return method(channel, "unary_unary", "Unary").with_call(message, timeout=TIMEOUT, metadata=[("x-kind", "python")])


def fail(channel):
    try:
        method(channel, "unary_unary", "Fail")(b"", timeout=TIMEOUT)
    except grpc.RpcError as error:
        trailers = dict(error.trailing_metadata())
        return [error.code().name, error.details(), trailers.get("reason"), trailers.get("reason-bin", b"").hex()]


def chat(channel):
    """Each question only after the answer to the one before."""
    questions = queue.Queue()
    call = method(channel, "stream_stream", "Chat")(iter(questions.get, None), timeout=TIMEOUT)
    answers = []
    for word in [b"one", b"", b"x" * MIB, b"four"]:
        questions.put(word)
        answers.append(len(next(call)))
    questions.put(None)
    return [answers, len(list(call)), call.code().name]


def left_alone(channel, timeout, cancel):
    call = method(channel, "unary_stream", "Hang")(b"still here", timeout=timeout)
    first = next(call).decode()
    if cancel:
        call.cancel()
    try:
        list(call)
    except grpc.RpcError:
        pass
    return [first, call.code().name]


def left_at_server(channel, before):
    """Streams that the server knows it was left with: both above, a moment later at most."""
    end = time.monotonic() + 10
    while True:
        count = int(method(channel, "unary_unary", "Left")(b"", timeout=TIMEOUT))
        if count >= before + 2 or time.monotonic() > end:
            return count
        time.sleep(0.05)


def at_once(channel):
    calls = [method(channel, "unary_unary", "Unary").future(str(n).encode(), timeout=TIMEOUT) for n in range(200)]
    return [call.result().decode() for call in calls] == [str(n) for n in range(200)]


options = [("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0)]
with grpc.insecure_channel(sys.argv[1], options) as channel:
    large = bytes(range(256)) * (4 * MIB // 256)
    empty, call = unary(channel, b"")
    before = int(method(channel, "unary_unary", "Left")(b"", timeout=TIMEOUT))
    numbers = [int(answer) for answer in method(channel, "unary_stream", "Many")(b"1000", timeout=TIMEOUT)]
    parts = iter([b"y" * 1000] * 1000 + [b"z" * MIB])
    seen = {
        "empty": [len(empty), call.code().name, dict(call.initial_metadata()).get("x-kind-seen")],
        "large": unary(channel, large)[0] == large,
        "fail": fail(channel),
        "many": numbers == list(range(1000)),
        "sum": method(channel, "stream_unary", "Sum")(parts, timeout=TIMEOUT).decode(),
        "chat": chat(channel),
        "cancel": left_alone(channel, TIMEOUT, True),
        "deadline": left_alone(channel, 0.5, False),
        "left": left_at_server(channel, before) - before,
        "at_once": at_once(channel),
    }
json.dump(seen, sys.stdout)
