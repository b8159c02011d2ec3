"""boto3's half of the operations. Usage: boto.py PREFIX operations|refusals|endpoints|uploads

Prints "ok NAME" for each that ends as it should, and the trace of each that does not; the caller counts.
"""

import base64
import hashlib
import os
import sys
import traceback
import urllib.request
import zlib

import boto3
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.exceptions import ClientError

BUCKET = "peers-bucket"
PREFIX = sys.argv[1]
PATH_STYLE = Config(s3={"addressing_style": "path"})
# Keys that a careless proxy would decode, encode, merge or cut.
ODD_KEYS = [
    "with space",
    "plus+plus",
    "percent%2Fslash",
    "テスト/ß",
    "q?x=1&y=2#z",
    "~!$'()*,;:@=[]{}|^`\"<>\\",
]


def client(service, **settings):
    once = Config(retries={"total_max_attempts": 1})
    config = once.merge(settings.pop("config", Config()))
    return boto3.client(service, config=config, **settings)


def check(got, wanted):
    if got != wanted:
        raise AssertionError(f"{got!r} is not {wanted!r}")


def file_hash(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def fetch(method, url, body=None, headers=None):
    """As a program without an SDK uses a URL; urllib knows HTTP_PROXY."""
    request = urllib.request.Request(url, body, headers or {}, method=method)
    with urllib.request.urlopen(request) as response:
        return response.read()


class Operations:
    """Each method is one operation; they run in this order."""

    def __init__(self):
        self.s3 = client("s3")
        self.key = f"{PREFIX}/big"
        self.table = {"TableName": f"{PREFIX}-table"}

    def upload_64_mib(self):
        self.s3.upload_file(f"{os.environ['FILES']}/big", BUCKET, self.key)

    def download_64_mib(self):
        path = f"{os.environ['CASE_DIR']}/{PREFIX}-big"
        self.s3.download_file(BUCKET, self.key, path)
        check(file_hash(path), file_hash(f"{os.environ['FILES']}/big"))

    def odd_keys(self):
        keys = sorted(f"{PREFIX}-odd/{key}" for key in ODD_KEYS)
        for key in keys:
            self.s3.put_object(Bucket=BUCKET, Key=key, Body=key.encode(), Metadata={"a": "b  c"})
            check(self.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read(), key.encode())
        # Asked for by name, the encoding is left to the caller; this server does not encode.
        wanted = {"Bucket": BUCKET, "Prefix": f"{PREFIX}-odd/", "EncodingType": "url"}
        listing = self.s3.list_objects_v2(**wanted)
        check(sorted(entry["Key"] for entry in listing["Contents"]), keys)

    def presigned(self, operation):
        params = {"Bucket": BUCKET, "Key": f"{PREFIX}-presigned/a b+c%2Fd"}
        # Without this, botocore signs URLs for us-east-1 by the old version 2.
        s3 = client("s3", config=Config(signature_version="s3v4"))
        return s3.generate_presigned_url(operation, Params=params)

    def presigned_put(self):
        fetch("PUT", self.presigned("put_object"), b"presigned")

    def presigned_get(self):
        check(fetch("GET", self.presigned("get_object")), b"presigned")

    def create_table(self):
        client("dynamodb").create_table(
            **self.table,
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )

    def put_item(self):
        client("dynamodb").put_item(**self.table, Item={"id": {"S": "é"}, "n": {"N": "1"}})

    def query(self):
        found = client("dynamodb").query(
            **self.table,
            KeyConditionExpression="id = :id",
            ExpressionAttributeValues={":id": {"S": "é"}},
        )
        check(found["Items"], [{"id": {"S": "é"}, "n": {"N": "1"}}])

    def put_record(self):
        kinesis = client("kinesis")
        kinesis.create_stream(StreamName=f"{PREFIX}-stream", ShardCount=1)
        record = {"StreamName": f"{PREFIX}-stream", "Data": b"\0\xff", "PartitionKey": "p"}
        check(kinesis.put_record(**record)["ShardId"], "shardId-000000000000")

    def get_caller_identity(self):
        check(client("sts").get_caller_identity()["Arn"].split("/")[-1], "peer")


class Refusals:
    """The servers verify: each refuses what is signed with another secret, or was changed after it was signed."""

    def __init__(self):
        self.calls = {
            "s3": lambda s3: s3.list_objects_v2(Bucket=BUCKET),
            "dynamodb": lambda dynamodb: dynamodb.list_tables(Limit=1),
            "kinesis": lambda kinesis: kinesis.list_streams(Limit=1),
            "sts": lambda sts: sts.get_caller_identity(),
        }

    def refused(self, service, made):
        try:
            self.calls[service](made)
        except ClientError as error:
            # DynamoDB's and Kinesis' parsers do not know moto's XML; the code stands in the text.
            if "SignatureDoesNotMatch" not in str(error):
                raise
        else:
            raise AssertionError(f"{service} took it")

    def straight(self, service, change):
        """Past the proxy, which would put the Host right (RFC 9112 3.2.2); `change` comes after signing."""
        endpoint = os.environ[f"AWS_ENDPOINT_URL_{service.upper()}"].replace("http:", "https:")
        made = boto3.client(service, endpoint_url=endpoint, verify=os.environ["SSL_CERT_FILE"])
        self.calls[service](made)
        made.meta.events.register("before-send", change)
        self.refused(service, made)

    def wrong_secret(self):
        keys = {"aws_access_key_id": os.environ["AWS_ACCESS_KEY_ID"], "aws_secret_access_key": "no"}
        for service in self.calls:
            self.refused(service, client(service, **keys))

    def changed_host(self):
        def change(request, **_):
            request.headers["Host"] = "changed.amazonaws.com"

        for service in self.calls:
            self.straight(service, change)

    def changed_body(self):
        def change(request, **_):
            request.body = request.body.replace(b"1", b"2")

        for service in ("dynamodb", "kinesis"):
            self.straight(service, change)

    def ccnproxy_name(self):
        """The client signs a name that the origin never sees."""
        for service in self.calls:
            endpoint = os.environ[f"AWS_ENDPOINT_URL_{service.upper()}"] + ".ccnproxy-https"
            self.refused(service, client(service, endpoint_url=endpoint, config=PATH_STYLE))


class Endpoints:
    """No HTTP_PROXY: a program names the proxy and the endpoint itself, and its other traffic stays as it is."""

    table = {"TableName": "environment-table"}

    def in_code(self):
        config = Config(proxies={"http": "http://127.0.0.1:3000"})
        endpoint = os.environ.pop("AWS_ENDPOINT_URL_DYNAMODB")
        made = client("dynamodb", endpoint_url=endpoint, config=config)
        check(made.describe_table(**self.table)["Table"]["TableStatus"], "ACTIVE")

    def in_the_config_file(self):
        path = f"{os.environ['CASE_DIR']}/config"
        endpoint = "http://dynamodb.us-east-1.amazonaws.com"
        with open(path, "w") as file:
            file.write("[default]\nregion = us-east-1\nservices = near\n")
            file.write(f"[services near]\ndynamodb =\n  endpoint_url = {endpoint}\n")
        os.environ["AWS_CONFIG_FILE"] = path
        made = boto3.Session().client("dynamodb", config=Config(proxies={"http": "http://127.0.0.1:3000"}))
        check(made.meta.endpoint_url, endpoint)
        check(made.describe_table(**self.table)["Table"]["TableStatus"], "ACTIVE")


class Uploads:
    """aws-chunked bodies: chunks inside the body, each signed after the one before, and a signed checksum behind them.
    Other SDKs send these over http; botocore does not, so they are made here. The server checks each signature."""

    data = os.urandom(300_000)

    def put(self, key, frame):
        """Signs and sends a PUT; `frame` makes of the body's parts what urllib takes."""
        endpoint = os.environ["AWS_ENDPOINT_URL_S3"].replace("://", f"://{BUCKET}.")
        request = AWSRequest("PUT", f"{endpoint}/{key}", data=b"", headers={
            "Content-Encoding": "aws-chunked",
            "X-Amz-Decoded-Content-Length": str(len(self.data)),
            "X-Amz-Trailer": "x-amz-checksum-crc32",
        })
        signer = StreamSigner(boto3.Session().get_credentials(), "s3", "us-east-1")
        signer.add_auth(request)
        framing, body = frame(list(signer.chunks(request, self.data)))
        headers = {**dict(request.headers), **framing, "Content-Type": "application/octet-stream"}
        fetch("PUT", request.url, body, headers)
        check(client("s3").get_object(Bucket=BUCKET, Key=key)["Body"].read(), self.data)

    def checksum_behind_a_body_of_known_length(self):
        def fixed(parts):
            return {"Content-Length": str(sum(map(len, parts)))}, b"".join(parts)

        self.put(f"{PREFIX}-fixed", fixed)

    def checksum_behind_a_body_of_unknown_length(self):
        # urllib sends an iterator as chunks of its own.
        self.put(f"{PREFIX}-chunked", lambda parts: ({}, iter(parts)))

    def path_style(self):
        s3 = client("s3", config=PATH_STYLE)
        s3.put_object(Bucket=BUCKET, Key=f"{PREFIX} path", Body=b"path")
        check(s3.get_object(Bucket=BUCKET, Key=f"{PREFIX} path")["Body"].read(), b"path")

    def range_of_an_object(self):
        s3 = client("s3")
        s3.put_object(Bucket=BUCKET, Key=f"{PREFIX}-range", Body=self.data)
        part = s3.get_object(Bucket=BUCKET, Key=f"{PREFIX}-range", Range="bytes=1000-1999")
        check(part["Body"].read(), self.data[1000:2000])


class StreamSigner(S3SigV4Auth):
    """What the head says of the body, and the signatures within it ("Signature calculations for trailing headers")."""

    def payload(self, request):
        return "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"

    def chunks(self, request, data):
        last = request.headers["Authorization"].split("Signature=")[1]

        def sign(kind, *hashes):
            scope = self.credential_scope(request)
            lines = [f"AWS4-HMAC-SHA256-{kind}", request.context["timestamp"], scope, last, *hashes]
            return self.signature("\n".join(lines), request)

        def sha256(text):
            return hashlib.sha256(text).hexdigest()

        for start in range(0, len(data), 65_536):
            chunk = data[start : start + 65_536]
            last = sign("PAYLOAD", sha256(b""), sha256(chunk))
            yield f"{len(chunk):x};chunk-signature={last}\r\n".encode() + chunk + b"\r\n"
        last = sign("PAYLOAD", sha256(b""), sha256(b""))
        yield f"0;chunk-signature={last}\r\n".encode()
        checksum = base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
        last = sign("TRAILER", sha256(f"x-amz-checksum-crc32:{checksum}\n".encode()))
        yield f"x-amz-checksum-crc32:{checksum}\r\nx-amz-trailer-signature:{last}\r\n\r\n".encode()


def run(group):
    """Runs the group's methods in the order in which they stand."""
    failed = False
    for name in [name for name in vars(type(group)) if callable(getattr(type(group), name))]:
        if name in ("__init__", "put", "presigned", "refused", "straight"):
            continue
        try:
            getattr(group, name)()
            print("ok", name, flush=True)
        except Exception:
            failed = True
            traceback.print_exc()
    return failed


GROUPS = {"operations": Operations, "refusals": Refusals, "uploads": Uploads, "endpoints": Endpoints}
sys.exit(run(GROUPS[sys.argv[2]]()))
