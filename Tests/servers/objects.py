"""Object servers for the scenarios, started by the scripts beside this file and ended by pid."""
import importlib.machinery
import importlib.util
import os
import subprocess

from scenario import ROOT, run


def facts(s, kind):
    """Starts a server; what it says of itself."""
    script = os.path.join(ROOT, "Tests", "servers", kind)
    home = s.path(kind)
    s.at_end(lambda: subprocess.run([script, "stop", home], capture_output=True, timeout=60))
    said = run(script, "start", home, str(os.getpid()), timeout=240).stdout
    return dict(line.split("=", 1) for line in said.splitlines() if "=" in line)


def start(s, kind):
    """Starts `ceph-rgw` or `moto`; returns (host, port, bucket, environment with credentials)."""
    said = facts(s, kind)
    host, port = said["ENDPOINT"].removeprefix("http://").rstrip("/").split(":")
    return host, int(port), said["BUCKET"], {"AWS_ACCESS_KEY_ID": said["ACCESS_KEY"], "AWS_SECRET_ACCESS_KEY": said["SECRET_KEY"]}


def location(bucket, port, prefix):
    return f"s3://{bucket}/{prefix}?endpoint=http://127.0.0.1:{port}&region=us-east-1"


def request(port, method, place, who, body=b"", headers=()):
    """The answer (`status`, `headers`, `read()`) to a signed request for `/bucket/key?query`, by the identity whose environment is `who`."""
    loader = importlib.machinery.SourceFileLoader("s3_admin", os.path.join(ROOT, "Tests", "servers", "s3-admin"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("s3_admin", loader))
    loader.exec_module(module)
    return module.send("s3", method, f"http://127.0.0.1:{port}", place, body, who["AWS_ACCESS_KEY_ID"], who["AWS_SECRET_ACCESS_KEY"], wanted="answer", headers=headers)
