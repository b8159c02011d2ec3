#!/usr/bin/env python3
"""boto3 against the S3 server behind TLS: a stream up, ranges down, a listing, an error."""

import os
import sys

VENV_PYTHON = f"{os.environ['VENV']}/bin/python3"
if sys.prefix != os.environ["VENV"]:
    if not os.access(VENV_PYTHON, os.X_OK):
        print("boto3 is missing")
        sys.exit(77)
    os.execv(VENV_PYTHON, [VENV_PYTHON, *sys.argv])

try:
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config
    from botocore.exceptions import ClientError
except ImportError:
    print("boto3 is missing")
    sys.exit(77)

host = os.environ.get("ORIGIN_s3")
if not host:
    print("the s3 origin is not running")
    sys.exit(77)

client = boto3.client(
    "s3",
    endpoint_url=f"http://{host}",
    region_name="us-east-1",
    config=Config(
        signature_version=UNSIGNED,
        # The bucket belongs into the path: BUCKET.localhost is not the certificate's name.
        s3={"addressing_style": "path"},
        proxies={"http": f"http://127.0.0.1:{os.environ['PROXY_PORT']}"},
        retries={"total_max_attempts": 1},
    ),
)
client.create_bucket(Bucket="boto3")
with open(f"{os.environ['FILES']}/medium", "rb") as file:
    client.put_object(Bucket="boto3", Key="medium", Body=file)
    file.seek(0)
    medium = file.read()
whole = client.get_object(Bucket="boto3", Key="medium")["Body"].read()
if whole != medium:
    sys.exit(f"{len(whole)} bytes came back, and not the ones that were sent")
part = client.get_object(Bucket="boto3", Key="medium", Range="bytes=1000-1999")["Body"].read()
if part != medium[1000:2000]:
    sys.exit("the range is another part of the object")
keys = [entry["Key"] for entry in client.list_objects_v2(Bucket="boto3")["Contents"]]
if keys != ["medium"]:
    sys.exit(f"the listing is {keys}")
try:
    client.get_object(Bucket="boto3", Key="none")
    sys.exit("a missing key was found")
except ClientError as error:
    if error.response["Error"]["Code"] != "NoSuchKey":
        sys.exit(f"a missing key gives {error}")
