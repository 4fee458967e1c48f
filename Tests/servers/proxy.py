"""An HTTP proxy in front of a real object server: it records each request with its answer and can misbehave on demand.

`fault(method, path)` is asked before a request is forwarded and may return None, "drop" (answer success, store nothing),
an HTTP status to answer with, a tuple (status, headers, body) to answer with, "reset" (close the connection instead of the request),
"lost" (carry the request out and close the connection instead of its answer), "cut" (state the right length, send half of the body and
close), "short" (half of the body, its length stated as the whole of it), "wrong" (a byte of the body changed), "slow" (a tenth of a second),
"etag" (another ETag), "length" (half of the length that HEAD states), or "taken" (carry the request out and answer 412).
"""
import hashlib
import http.client
import http.server
import threading
import time


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
                if isinstance(fault, tuple):
                    self.answer(*fault)
                    return
                if fault == "slow":
                    time.sleep(0.1)
                upstream = http.client.HTTPConnection(host, port, timeout=120)
                upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    upstream.putheader(name, value)
                upstream.endheaders(body)
                reply = upstream.getresponse()
                content, headers = reply.read(), reply.getheaders()
                upstream.close()
                if fault in ("lost", "cut"):
                    if fault == "cut":
                        self.send_response_only(reply.status)
                        self.send_header("Content-Length", str(max(len(content), 100)))
                        self.end_headers()
                        self.wfile.write(content[:len(content) // 2])
                    self.close_connection = True
                    self.connection.close()
                    return
                if fault == "taken":
                    self.answer(412, [], b"<Error><Code>PreconditionFailed</Code></Error>")
                    return
                if reply.status < 300:
                    if fault == "short":
                        content = content[:len(content) // 2]
                    if fault == "wrong" and content:
                        content = content[:len(content) // 3] + bytes([content[len(content) // 3] ^ 16]) + content[len(content) // 3 + 1:]
                    if fault == "etag":
                        headers = [(name, f'"{"0" * 32}"' if name.lower() == "etag" else value) for name, value in headers]
                    if fault == "length" and self.command == "HEAD":
                        headers = [(name, str(int(value) // 2) if name.lower() == "content-length" else value) for name, value in headers]
                self.answer(reply.status, headers, content)

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
