"""Calls methods of a gRPC server, each on a channel of its own, and says what became of each.

METHOD sends 5 bytes, METHOD=N sends N; a method whose name ends with Stream is sent ten messages.
"""

import sys

import grpc


def call(channel, method, payload):
    if not method.endswith("Stream"):
        return channel.unary_unary(method)(payload, timeout=20) == payload
    answers = list(channel.stream_stream(method)(iter([payload] * 10), timeout=20))
    return answers == [payload] * 10


for word in sys.argv[2:]:
    method, _, size = word.partition("=")
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(sys.argv[1], options) as channel:
        try:
            for _ in range(3):
                assert call(channel, method, b"x" * int(size or 5))
            print(method, "OK")
        except grpc.RpcError as error:
            print(method, error.code().name, error.details())
