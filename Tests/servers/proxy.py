"""An HTTP proxy in front of a real object server: it records each request with its answer and can misbehave on demand.

`fault(method, path)` is asked before a request is forwarded and may return None, "drop" (answer success, store nothing),
an HTTP status to answer with, or "reset" (close the connection in the middle).
"""
import hashlib
import http.client
import http.server
import threading


class Proxy:
    def __init__(self, host, port, fault=None):
        self.requests, self.fault, self.lock = [], fault, threading.Lock()
        proxy = self

        class Request(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def serve(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                fault = proxy.fault and proxy.fault(self.command, self.path)
                if fault == "reset":
                    self.close_connection = True
                    self.connection.close()
                    return
                if fault == "drop":
                    self.answer(200, [("ETag", f'"{hashlib.md5(body).hexdigest()}"')], b"")
                    return
                if isinstance(fault, int):
                    self.answer(fault, [], b"")
                    return
                upstream = http.client.HTTPConnection(host, port, timeout=120)
                upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    upstream.putheader(name, value)
                upstream.endheaders(body)
                reply = upstream.getresponse()
                content = reply.read()
                self.answer(reply.status, reply.getheaders(), content)
                upstream.close()

            def answer(self, status, headers, content):
                self.send_response_only(status)
                for name, value in headers:
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                length = dict((n.lower(), v) for n, v in headers).get("content-length", "0") if self.command == "HEAD" else str(len(content))
                self.send_header("Content-Length", length)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)
                self.wfile.flush()
                with proxy.lock:  # recorded only once answered: a request cut off before its answer does not count as stored
                    proxy.requests.append((self.command, self.path, status, len(content)))

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = serve

            def log_message(self, *words):
                pass

        class Server(http.server.ThreadingHTTPServer):
            request_queue_size = 128

            def handle_error(self, request, client_address):
                pass  # a client that was killed in the middle of a request is what the scenarios do

        self.server = Server(("127.0.0.1", 0), Request)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
