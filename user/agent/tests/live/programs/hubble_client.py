"""Asks each of Hubble's services once, as a client that was not made by us would, and prints what they say as JSON.

Arguments: a file with descriptors, the server, and for TLS the files of authority, certificate and key and the name in
the server's certificate.
"""

import json
import sys

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory


def main():
    descriptors, target, *tls = sys.argv[1:]
    pool = descriptor_pool.DescriptorPool()
    with open(descriptors, "rb") as file:
        for proto in descriptor_pb2.FileDescriptorSet.FromString(file.read()).file:
            pool.Add(proto)
    with open_channel(target, tls) as channel:
        client = Client(pool, channel)
        told = {
            "nodes": client.ask("observer.Observer", "GetNodes"),
            "namespaces": client.ask("observer.Observer", "GetNamespaces"),
            "status": client.ask("observer.Observer", "ServerStatus"),
            "flows": client.all("observer.Observer", "GetFlows", {"number": 5, "whitelist": [{"protocol": ["http"]}]}),
            "events": client.all("observer.Observer", "GetAgentEvents", {"number": 100}),
            "debug": client.all("observer.Observer", "GetDebugEvents", {"number": 1}),
            "peer": client.first("peer.Peer", "Notify"),
        }
        try:
            client.all("observer.Observer", "GetFlows", {"first": True, "follow": True, "number": 1})
        except grpc.RpcError as error:
            told["refused"] = error.code().name
        print(json.dumps(told))


def open_channel(target, tls):
    if not tls:
        # For a path, gRPC's C core names "var%2Frun%2F..." as the authority, which HTTP libraries refuse for its percent
        # signs; gRPC of Go, which Hubble's own clients use, names "localhost".
        options = [("grpc.default_authority", "localhost")] if target.startswith("unix:") else []
        return grpc.insecure_channel(target, options)
    authority, certificate, key, name = tls
    contents = []
    for path in (authority, key, certificate):
        with open(path, "rb") as file:
            contents.append(file.read())
    options = [("grpc.ssl_target_name_override", name)]
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(*contents), options)


class Client:
    """Calls methods by their names in the descriptors."""

    def __init__(self, pool, channel):
        self.pool, self.channel = pool, channel

    def call(self, service, method, request, connect):
        described = self.pool.FindServiceByName(service).FindMethodByName(method)
        asked = message_factory.GetMessageClass(described.input_type)
        told = message_factory.GetMessageClass(described.output_type)
        multicall = connect(
            f"/{service}/{method}", request_serializer=asked.SerializeToString, response_deserializer=told.FromString
        )
        return multicall(json_format.ParseDict(request, asked()), timeout=20)

    def ask(self, service, method):
        return as_dict(self.call(service, method, {}, self.channel.unary_unary))

    def all(self, service, method, request):
        return [as_dict(message) for message in self.call(service, method, request, self.channel.unary_stream)]

    def first(self, service, method):
        stream = self.call(service, method, {}, self.channel.unary_stream)
        message = next(stream)
        stream.cancel()
        return as_dict(message)


def as_dict(message):
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


if __name__ == "__main__":
    main()
