#!/usr/bin/env python3
"""A double of Azure Blob Storage, for want of an emulator: block blobs of one account, in memory, addressed by path.

azure_blob.py ACCOUNT KEY CONTAINER PORT [TLS-PORT CERTIFICATE KEY-FILE]

What Microsoft's own client (azure-storage-blob) needs of it is shown by azure-client; what is not here is refused. It checks what
the service checks: SharedKey signatures, shared access signatures with their rights and times, dates within 15 minutes,
Content-MD5, blocks of a list, conditions, unknown query parameters. Facts from Microsoft's REST reference and that client.
"""
import base64
import binascii
import datetime
import email.utils
import hashlib
import hmac
import http.server
import ssl
import sys
import threading
import time
import urllib.parse
import uuid
from xml.etree import ElementTree
from xml.sax.saxutils import escape

SKEW_SECONDS_MAX = 15 * 60
PUT_BLOB_BYTES_MAX, BLOCK_BYTES_MAX, BLOCKS_MAX, PAGE_MAX = 5000 << 20, 4000 << 20, 50_000, 5000


class Refused(Exception):
    def __init__(self, status, code, message="", **headers):
        self.status, self.code, self.message, self.headers = status, code, message or code, headers


class Blob:
    def __init__(self, content, md5, kind, blocks=None):
        self.content, self.md5, self.kind, self.blocks = content, md5, kind, blocks or {}
        self.etag, self.modified = f'"0x{uuid.uuid4().hex[:15].upper()}"', email.utils.formatdate(usegmt=True)


class Container:
    def __init__(self):
        self.blobs, self.uncommitted = {}, {}


class Account:
    def __init__(self, name, key):
        self.name, self.key, self.containers, self.lock = name, base64.b64decode(key), {}, threading.Lock()

    def proof(self, text):
        return base64.b64encode(hmac.new(self.key, text.encode(), hashlib.sha256).digest()).decode()


# --- who asks

def string_to_sign(account, method, path, query, headers):
    """The canonical form of a request for SharedKey, since version 2015-02-21; `query` holds decoded pairs."""
    def value(name):
        return headers.get(name, "")
    length = value("content-length")
    lines = [method, value("content-encoding"), value("content-language"), "" if length == "0" else length, value("content-md5"), value("content-type"),
             "" if "x-ms-date" in headers else value("date"), value("if-modified-since"), value("if-match"), value("if-none-match"),
             value("if-unmodified-since"), value("range")]
    lines += [f"{name}:{' '.join(headers[name].split())}" for name in sorted(headers) if name.startswith("x-ms-")]
    resource = f"/{account}{path}"
    by_name = {}
    for name, text in query:
        by_name.setdefault(name.lower(), []).append(text)
    return "\n".join(lines + [resource + "".join(f"\n{name}:{','.join(sorted(by_name[name]))}" for name in sorted(by_name))])


SAS_NAMES = {"sv", "ss", "srt", "sr", "sp", "st", "se", "si", "sip", "spr", "ses", "sig", "sdd", "rscc", "rscd", "rsce", "rscl", "rsct"}


def check_shared_key(account, request):
    headers = request.named
    scheme, _, rest = headers["authorization"].partition(" ")
    name, _, proof = rest.partition(":")
    if scheme != "SharedKey" or not proof:
        raise Refused(400, "InvalidAuthenticationInfo")
    if "x-ms-version" not in headers:
        raise Refused(400, "MissingRequiredHeader", HeaderName="x-ms-version")
    stated = headers.get("x-ms-date") or headers.get("date")
    try:
        at = email.utils.parsedate_to_datetime(stated).timestamp()
    except (TypeError, ValueError):
        raise Refused(403, "AuthenticationFailed", "The date header is missing or wrong.")
    if abs(at - time.time()) > SKEW_SECONDS_MAX:
        raise Refused(403, "AuthenticationFailed", "Request date header too old or in the future.")
    text = string_to_sign(account.name, request.command, request.raw_path, request.query, headers)
    if name != account.name or not hmac.compare_digest(proof, account.proof(text)):
        raise Refused(403, "AuthenticationFailed", "The MAC signature found in the HTTP request is not the same as any computed signature.")


def moment(text):
    for form in ("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%MZ", "%Y-%m-%d"):
        try:
            return datetime.datetime.strptime(text, form).replace(tzinfo=datetime.timezone.utc)
        except ValueError:
            pass
    raise Refused(403, "AuthenticationFailed", "A time of the signature is wrong.")


def check_sas(account, request, container, blob, right):
    """A service SAS of a container or blob, or an account SAS; both as of version 2020-12-06 or later."""
    sas = {name: value for name, value in request.query if name in SAS_NAMES}
    part = lambda name: sas.get(name, "") + "\n"
    if sas.get("sv", "") < "2020-12-06":
        raise Refused(403, "AuthenticationFailed", "The version of the signature is older than this double knows.")
    if "ss" in sas:
        text = account.name + "\n" + "".join(map(part, ["sp", "ss", "srt", "st", "se", "sip", "spr", "sv", "ses"]))
    else:
        of = f"/{container}" + (f"/{blob}" if sas.get("sr") == "b" else "")
        text = (part("sp") + part("st") + part("se") + f"/blob/{account.name}{of}\n" + "".join(map(part, ["si", "sip", "spr", "sv", "sr"])) + "\n"
                + "".join(map(part, ["ses", "rscc", "rscd", "rsce", "rscl", "rsct"])))[:-1]
    if not hmac.compare_digest(sas["sig"], account.proof(text)):
        raise Refused(403, "AuthenticationFailed", "Signature did not match.")
    now = datetime.datetime.now(datetime.timezone.utc)
    if now > moment(sas.get("se", "")) or ("st" in sas and now < moment(sas["st"])):
        raise Refused(403, "AuthenticationFailed", "Signature not valid in the specified time frame.")
    if sas.get("spr", "https,http") == "https" and not request.server.secure:
        raise Refused(403, "AuthorizationProtocolMismatch")
    if "ss" in sas and ("b" not in sas["ss"] or ("o" if blob else "c") not in sas.get("srt", "")):
        raise Refused(403, "AuthorizationResourceTypeMismatch")
    if sas.get("sr") not in (None, "c", "b") or (sas.get("sr") == "c" and not blob and right not in "l"):
        raise Refused(403, "AuthorizationFailure")
    if not any(letter in sas.get("sp", "") for letter in right):
        raise Refused(403, "AuthorizationPermissionMismatch")


# --- what is asked

class Request(http.server.BaseHTTPRequestHandler):
    protocol_version, server_version, sys_version = "HTTP/1.1", "Azure-Blob-Double", ""
    disable_nagle_algorithm, wbufsize = True, 1 << 16
    QUERY = {"restype", "comp", "timeout", "prefix", "marker", "maxresults", "include", "delimiter", "blockid", "blocklisttype"}

    def serve(self):
        account = self.server.account
        self.raw_path, _, text = self.path.partition("?")
        self.query = urllib.parse.parse_qsl(text.replace("+", "%2B"), keep_blank_values=True)
        self.named = {}
        for name, value in self.headers.items():
            self.named[name.lower()] = f"{self.named[name.lower()]},{value}" if name.lower() in self.named else value.strip()
        try:
            if self.command in ("PUT", "POST") and "content-length" not in self.named:
                self.close_connection = True
                raise Refused(411, "MissingContentLengthHeader")
            self.body = self.rfile.read(int(self.named.get("content-length", 0)))
            self.route(account)
        except Refused as refused:
            self.refuse(refused)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = serve

    def route(self, account):
        asked = dict(self.query)
        if unknown := set(asked) - self.QUERY - SAS_NAMES:
            raise Refused(400, "UnsupportedQueryParameter", " ".join(unknown))
        place = urllib.parse.unquote(self.raw_path).split("/", 3)
        if len(place) < 3 or place[0] != "" or place[1] != account.name:
            raise Refused(400, "InvalidUri")
        container, blob = place[2], place[3] if len(place) > 3 else ""
        verb = (self.command, asked.get("comp", ""), "blob" if blob else asked.get("restype", ""))
        method, right = self.VERBS.get(verb, (None, None))
        if method is None:
            raise Refused(400, "UnsupportedHttpVerb", str(verb))
        if "authorization" in self.named and "sig" in asked:
            raise Refused(400, "InvalidAuthenticationInfo")
        if "authorization" in self.named:
            check_shared_key(account, self)
        elif "sig" in asked:
            check_sas(account, self, container, blob, right)
        else:
            raise Refused(401, "NoAuthenticationInformation", "Server failed to authenticate the request.")
        stated = self.named.get("content-md5")
        if stated and stated != md5(self.body):
            raise Refused(400, "Md5Mismatch", "The MD5 value specified in the request did not match with the MD5 value calculated by the server.")
        with account.lock:
            if method is Request.create_container:
                self.create_container(account, container)
                return
            if container not in account.containers:
                raise Refused(404, "ContainerNotFound", "The specified container does not exist.")
            held = account.containers[container]
            if method is Request.delete_container:
                del account.containers[container]
                return self.answer(202)
            method(self, held, blob, asked)

    # Containers

    def create_container(self, account, name):
        if name in account.containers:
            raise Refused(409, "ContainerAlreadyExists", "The specified container already exists.")
        account.containers[name] = Container()
        self.answer(201)

    def delete_container(self):
        pass

    def container_properties(self, held, _, asked):
        self.answer(200, {"ETag": '"0x1"', "Last-Modified": email.utils.formatdate(usegmt=True), "x-ms-lease-status": "unlocked"})

    def list_blobs(self, held, _, asked):
        if asked.get("delimiter"):
            raise Refused(400, "UnsupportedQueryParameter", "delimiter")
        count = int(asked.get("maxresults", PAGE_MAX))
        if count <= 0:
            raise Refused(400, "OutOfRangeQueryParameterValue", "maxresults")
        prefix, after = asked.get("prefix", ""), b""
        if asked.get("marker"):
            try:
                version, _, name = base64.b64decode(asked["marker"], validate=True).partition(b"!")
                assert version == b"2"
                after = name
            except (binascii.Error, AssertionError):
                raise Refused(400, "InvalidQueryParameterValue", "marker")
        names = sorted(name for name in (n.encode() for n in held.blobs if n.startswith(prefix)) if name > after)
        page, rest = names[:min(count, PAGE_MAX)], names[min(count, PAGE_MAX):]
        marker = base64.b64encode(b"2!" + page[-1]).decode() if rest else ""
        blobs = "".join(self.listed(name.decode(), held.blobs[name.decode()]) for name in page)
        known = {"Prefix": "prefix", "Marker": "marker", "MaxResults": "maxresults"}
        echoed = "".join(f"<{tag}>{escape(asked[name])}</{tag}>" for tag, name in known.items() if name in asked)
        text = (f'\ufeff<?xml version="1.0" encoding="utf-8"?><EnumerationResults ServiceEndpoint="http://127.0.0.1/" ContainerName="c">{echoed}'
                f"<Blobs>{blobs}</Blobs><NextMarker{f'>{marker}</NextMarker>' if marker else ' />'}</EnumerationResults>")
        self.answer(200, {"Content-Type": "application/xml"}, text.encode())

    @staticmethod
    def listed(name, blob):
        fits = all(character not in "\ufffe\uffff" for character in name)
        shown = f"<Name>{escape(name)}</Name>" if fits else f'<Name Encoded="true">{urllib.parse.quote(name)}</Name>'
        digest = f"<Content-MD5>{blob.md5}</Content-MD5>" if blob.md5 else "<Content-MD5 />"
        return (f"<Blob>{shown}<Properties><Creation-Time>{blob.modified}</Creation-Time><Last-Modified>{blob.modified}</Last-Modified>"
                f"<Etag>{blob.etag[1:-1]}</Etag>"
                f"<Content-Length>{len(blob.content)}</Content-Length><Content-Type>{escape(blob.kind)}</Content-Type><Content-Encoding /><Content-Language />"
                f"<Content-CRC64 />{digest}<Cache-Control /><Content-Disposition /><BlobType>BlockBlob</BlobType><AccessTier>Hot</AccessTier>"
                "<AccessTierInferred>true</AccessTierInferred><LeaseStatus>unlocked</LeaseStatus><LeaseState>available</LeaseState>"
                "<ServerEncrypted>true</ServerEncrypted></Properties><OrMetadata /></Blob>")

    # Blobs

    def conditions(self, held, name, writes):
        blob = held.blobs.get(name)
        if self.named.get("if-none-match") == "*" and blob:
            raise Refused(409, "BlobAlreadyExists", "The specified blob already exists.") if writes else Refused(304, "ConditionNotMet")
        if "if-match" in self.named and (blob is None or self.named["if-match"] not in ("*", blob.etag)):
            raise Refused(412, "ConditionNotMet", "The condition specified using HTTP conditional header(s) is not met.")

    def put_blob(self, held, name, asked):
        if "x-ms-blob-type" not in self.named:
            raise Refused(400, "MissingRequiredHeader", HeaderName="x-ms-blob-type")
        if self.named["x-ms-blob-type"] != "BlockBlob":
            raise Refused(400, "UnsupportedHeader", "only block blobs")
        if len(name.encode()) > 1024:
            raise Refused(400, "InvalidResourceName")
        own = md5(self.body)
        # For a block blob this header is checked like Content-MD5.
        if self.named.get("x-ms-blob-content-md5", own) != own:
            raise Refused(400, "Md5Mismatch")
        self.conditions(held, name, True)
        held.uncommitted.pop(name, None)
        self.store(held, name, Blob(self.body, own, self.kind(self.named.get("content-type"))), own)

    def kind(self, otherwise=None):
        return self.named.get("x-ms-blob-content-type") or otherwise or "application/octet-stream"

    def store(self, held, name, blob, digest):
        held.blobs[name] = blob
        self.answer(201, {"ETag": blob.etag, "Last-Modified": blob.modified, "Content-MD5": digest, "x-ms-request-server-encrypted": "true"})

    def put_block(self, held, name, asked):
        block = asked.get("blockid", "")
        try:
            length = len(base64.b64decode(block, validate=True))
        except binascii.Error:
            length = 0
        waiting = held.uncommitted.setdefault(name, {})
        if not 0 < length <= 64:
            raise Refused(400, "InvalidQueryParameterValue", "blockid")
        if any(len(other) != len(block) for other in waiting):
            raise Refused(400, "InvalidBlobOrBlock", "The specified blob or block content is invalid.")
        if not self.body:
            raise Refused(400, "InvalidHeaderValue", "Content-Length")
        waiting[block] = self.body
        self.answer(201, {"Content-MD5": md5(self.body)})

    def put_block_list(self, held, name, asked):
        try:
            entries = [(entry.tag, entry.text or "") for entry in ElementTree.fromstring(self.body)]
        except ElementTree.ParseError:
            raise Refused(400, "InvalidXmlDocument")
        waiting, committed = held.uncommitted.get(name, {}), held.blobs[name].blocks if name in held.blobs else {}
        sources = {"Latest": [waiting, committed], "Uncommitted": [waiting], "Committed": [committed]}
        blocks = {}
        for kind, block in entries:
            source = next((one for one in sources.get(kind, []) if block in one), None)
            if source is None:
                raise Refused(400, "InvalidBlockList", "The specified block list is invalid.")
            blocks[block] = source[block]
        self.conditions(held, name, True)
        held.uncommitted.pop(name, None)
        # The MD5 of a blob made of blocks is what the client states; nobody checks it.
        blob = Blob(b"".join(blocks[block] for _, block in entries), self.named.get("x-ms-blob-content-md5"), self.kind(), blocks)
        self.store(held, name, blob, md5(self.body))

    def found(self, held, name):
        if name not in held.blobs:
            raise Refused(404, "BlobNotFound", "The specified blob does not exist.")
        self.conditions(held, name, False)
        return held.blobs[name]

    def properties(self, blob):
        return {"ETag": blob.etag, "Last-Modified": blob.modified, "Content-Type": blob.kind, "Accept-Ranges": "bytes", "x-ms-blob-type": "BlockBlob",
                "x-ms-creation-time": blob.modified, "x-ms-lease-status": "unlocked", "x-ms-lease-state": "available", "x-ms-server-encrypted": "true"}

    def get_blob(self, held, name, asked):
        blob = self.found(held, name)
        headers, size = self.properties(blob), len(blob.content)
        asked_range = self.named.get("x-ms-range") or self.named.get("range")
        if not asked_range:
            return self.answer(200, headers | ({"Content-MD5": blob.md5} if blob.md5 else {}), blob.content)
        first, _, last = asked_range.removeprefix("bytes=").partition("-")
        if int(first) >= size:
            raise Refused(416, "InvalidRange", "The range specified is invalid for the current size of the resource.", Range=f"bytes */{size}")
        end = min(int(last) + 1 if last else size, size)
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{size}"
        self.answer(206, headers | ({"x-ms-blob-content-md5": blob.md5} if blob.md5 else {}), blob.content[int(first):end])

    def head_blob(self, held, name, asked):
        blob = self.found(held, name)
        self.answer(200, self.properties(blob) | {"Content-Length": str(len(blob.content))} | ({"Content-MD5": blob.md5} if blob.md5 else {}))

    def delete_blob(self, held, name, asked):
        self.found(held, name)
        del held.blobs[name]
        self.answer(202, {"x-ms-delete-type-permanent": "true"})

    VERBS = {
        ("PUT", "", "container"): (create_container, "-"), ("DELETE", "", "container"): (delete_container, "-"),
        ("GET", "", "container"): (container_properties, "-"), ("HEAD", "", "container"): (container_properties, "-"),
        ("GET", "list", "container"): (list_blobs, "l"),
        ("PUT", "", "blob"): (put_blob, "w"), ("PUT", "block", "blob"): (put_block, "w"), ("PUT", "blocklist", "blob"): (put_block_list, "w"),
        ("GET", "", "blob"): (get_blob, "r"), ("HEAD", "", "blob"): (head_blob, "r"), ("DELETE", "", "blob"): (delete_blob, "d"),
    }

    # --- answers

    def answer(self, status, headers=None, content=b""):
        self.send_response_only(status)
        headers = {"Server": self.server_version, "x-ms-request-id": str(uuid.uuid4()), "x-ms-version": self.named.get("x-ms-version", "2020-12-06"),
                   "Date": email.utils.formatdate(usegmt=True), "Content-Length": str(len(content))} | (headers or {})
        if "x-ms-client-request-id" in self.named:
            headers["x-ms-client-request-id"] = self.named["x-ms-client-request-id"]
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        self.wfile.flush()

    def refuse(self, refused):
        stamp = datetime.datetime.now(datetime.timezone.utc).isoformat()
        text = (f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{refused.code}</Code><Message>{escape(refused.message)}\n'
                f"RequestId:{uuid.uuid4()}\nTime:{stamp}</Message></Error>").encode()
        headers = {"x-ms-error-code": refused.code, "Content-Type": "application/xml"}
        if "Range" in refused.headers:
            headers["Content-Range"] = refused.headers["Range"]
        bodiless = self.command == "HEAD" or refused.status == 304
        self.answer(refused.status, headers, b"" if bodiless else text)

    def log_message(self, *words):
        pass


def md5(content):
    return base64.b64encode(hashlib.md5(content).digest()).decode()


def serve(account, port, certificate=None, key=None):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Request, bind_and_activate=False)
    server.daemon_threads, server.account, server.secure, server.request_queue_size = True, account, certificate is not None, 64
    server.server_bind()
    server.server_activate()
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        # The handshake happens in the connection's own thread.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.serve_forever()


if __name__ == "__main__":
    if len(sys.argv) not in (5, 8):
        sys.exit(__doc__)
    name, secret, first, port, *tls = sys.argv[1:]
    everything = Account(name, secret)
    everything.containers[first] = Container()
    if tls:
        threading.Thread(target=serve, args=(everything, int(tls[0]), tls[1], tls[2]), daemon=True).start()
    serve(everything, int(port))
