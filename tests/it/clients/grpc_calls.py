"""Calls every kind of the demo's gRPC service and prints, as JSON, all that a client can see of the answers.

Usage: grpc_calls.py TARGET AUTHORITY. Messages are written and read by hand: no generated code, so that this client
shares nothing with the mesh. It judges nothing: the test compares what it prints with and without the mesh.
"""

import json
import queue
import sys

import grpc

SERVICE = "/lacewing.demo.v1.Emoji/"
# A call must end within this, in seconds; only the test of deadlines has a shorter one.
TIMEOUT = 20
# Fields that concern one hop or one moment.
HOP_FIELDS = {"date"}


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def find_request(shortcode):
    text = shortcode.encode()
    return b"\x0a" + varint(len(text)) + text if text else b""


def list_request(limit):
    return b"\x08" + varint(limit) if limit else b""


def fields(message):
    """A message's fields by number: text for bytes, numbers for varints."""
    found, at = {}, 0

    def number():
        nonlocal at
        value, shift = 0, 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        key = number()
        if key & 7 == 0:
            found[str(key >> 3)] = number()
        elif key & 7 == 2:
            length = number()
            found[str(key >> 3)] = message[at : at + length].decode()
            at += length
        else:
            raise ValueError(f"wire type {key & 7}")
    return found


def metadata(pairs):
    return sorted([key, str(value)] for key, value in pairs or () if key not in HOP_FIELDS)


def ending(call):
    """How a call ended, as the client library tells it."""
    return {
        "code": call.code().name,
        "details": call.details(),
        "initial": metadata(call.initial_metadata()),
        "trailing": metadata(call.trailing_metadata()),
    }


def unary(channel, shortcode):
    call = channel.unary_unary(SERVICE + "Find")
    try:
        answer, call = call.with_call(find_request(shortcode), timeout=TIMEOUT)
        return {"answer": fields(answer), **ending(call)}
    except grpc.RpcError as error:
        return {"answer": None, **ending(error)}


def server_stream(channel, limit):
    call = channel.unary_stream(SERVICE + "List")(list_request(limit), timeout=TIMEOUT)
    return {"answers": [fields(answer) for answer in call], **ending(call)}


def client_stream(channel, shortcodes):
    requests = (find_request(shortcode) for shortcode in shortcodes)
    answer, call = channel.stream_unary(SERVICE + "Count").with_call(requests, timeout=TIMEOUT)
    return {"answer": fields(answer), **ending(call)}


def both_streams(channel, shortcodes):
    """Each question only after the answer to the one before: nothing on the way may wait for more."""
    questions = queue.Queue()
    call = channel.stream_stream(SERVICE + "Echo")(iter(questions.get, None), timeout=TIMEOUT)
    answers = []
    try:
        for shortcode in shortcodes:
            questions.put(find_request(shortcode))
            answers.append(fields(next(call)))
        questions.put(None)
        answers.extend(fields(answer) for answer in call)
    except grpc.RpcError:
        questions.put(None)
    return {"answers": answers, **ending(call)}


def many_at_once(channel, count):
    """Questions as fast as they go, while answers are read: flow control works in both directions."""
    requests = (find_request("otter") for _ in range(count))
    call = channel.stream_stream(SERVICE + "Echo")(requests, timeout=TIMEOUT)
    answers = [fields(answer) for answer in call]
    return {"count": len(answers), "kinds": sorted({answer["1"] for answer in answers}), **ending(call)}


def held_open(channel, end):
    """A stream that both sides hold open after one answer, ended by `end`: only how the client sees its end."""
    questions = queue.Queue()
    call = channel.stream_stream(SERVICE + "Echo")(iter(questions.get, None), timeout=end.get("timeout", TIMEOUT))
    questions.put(find_request("kite"))
    first = fields(next(call))
    if end.get("cancel"):
        call.cancel()
    try:
        rest = [fields(answer) for answer in call]
    except grpc.RpcError:
        rest = []
    questions.put(None)
    return {"first": first, "rest": rest, "code": call.code().name}


def main(target, authority):
    options = [("grpc.default_authority", authority), ("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(target, options) as channel:
        grpc.channel_ready_future(channel).result(timeout=TIMEOUT)
        seen = {
            "unary": unary(channel, "rocket"),
            "unary_error": unary(channel, "no such 'emoji' – 50%"),
            "server_stream": server_stream(channel, 5),
            "server_stream_all": server_stream(channel, 0),
            "client_stream": client_stream(channel, ["taco", "bee", "none"] * 700),
            "client_stream_empty": client_stream(channel, []),
            "client_stream_large": client_stream(channel, ["x" * 1_000_000, "taco", "y" * 1_000_000]),
            "both_streams": both_streams(channel, ["crab", "pizza", "taco", "kite"]),
            "both_streams_error": both_streams(channel, ["crab", "nobody", "taco"]),
            "many_at_once": many_at_once(channel, 5_000),
            "deadline": held_open(channel, {"timeout": 1.0}),
            "cancelled": held_open(channel, {"cancel": True}),
            "after_all_that": unary(channel, "doughnut"),
        }
    json.dump(seen, sys.stdout)


main(*sys.argv[1:])
