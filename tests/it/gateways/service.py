"""A WSGI service, which reads X_Auth_Roles and X-Auth-Roles as one name; it answers with what it read."""

import json
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 128


class Handler(WSGIRequestHandler):
    def log_message(self, *arguments):
        pass


def application(environ, start_response):
    length = int(environ.get("CONTENT_LENGTH") or 0)
    if length:
        environ["wsgi.input"].read(length)
    headers = {name: value for name, value in environ.items() if name.startswith("HTTP_")}
    body = json.dumps(headers).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


server = make_server("127.0.0.1", 0, application, Server, Handler)
print(server.server_port, flush=True)
server.serve_forever()
