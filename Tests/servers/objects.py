"""Real object servers for the scenarios, started by the project's own scripts on loopback and ended by pid."""
import os
import subprocess

from scenario import ROOT, run

BUCKET = "vaults"


def start(s, kind):
    """Starts `ceph-rgw` or `moto`; returns (host, port, environment with credentials). A bucket stands ready."""
    script = os.path.join(ROOT, "Tests", "servers", kind)
    home = s.path(kind)
    said = run(script, "start", home, timeout=240).stdout
    s.at_end(lambda: subprocess.run([script, "stop", home], capture_output=True, timeout=60))
    facts = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    host, port = facts["ENDPOINT"].removeprefix("http://").rstrip("/").split(":")
    environment = {name: facts[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    import boto3
    client = boto3.client("s3", endpoint_url=facts["ENDPOINT"], region_name="us-east-1",
                          aws_access_key_id=environment["AWS_ACCESS_KEY_ID"], aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"])
    client.create_bucket(Bucket=BUCKET)
    return host, int(port), environment, client


def location(port, prefix):
    return f"s3://{BUCKET}/{prefix}?endpoint=http://127.0.0.1:{port}&region=us-east-1"
