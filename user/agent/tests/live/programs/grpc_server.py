"""A gRPC server whose methods answer what they were sent; every call is written to the file that is named."""

import sys
from concurrent import futures

import grpc


class Echo(grpc.GenericRpcHandler):
    def service(self, details):
        with open(sys.argv[2], "a") as log:
            print(details.method, file=log)
        if details.method.endswith("Stream"):
            return grpc.stream_stream_rpc_method_handler(lambda requests, context: requests)
        return grpc.unary_unary_rpc_method_handler(lambda request, context: request)


server = grpc.server(futures.ThreadPoolExecutor(max_workers=8), handlers=(Echo(),))
server.add_insecure_port(sys.argv[1])
server.start()
server.wait_for_termination()
