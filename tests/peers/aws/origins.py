"""The far side of AWS in a network of its own: name servers, and DynamoDB, Kinesis, STS and IAM by moto.

moto recomputes the signature of every request (IAM authentication on), over the Host and the body that arrived. Prints
"ready" when all of it answers, with moto's port and the only key that is valid from then on: its id and its secret.
"""

import json
import logging
import socket
import sys
import threading

import boto3
import moto.settings
from moto.moto_server.threaded_moto_server import ThreadedMotoServer


def serve_names(listen, address):
    """A name server: every name below amazonaws.com has one address."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((listen, 53))
    record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(address)

    def answer():
        while True:
            query, peer = sock.recvfrom(1500)
            labels, at = [], 12
            while query[at]:
                labels.append(query[at + 1 : at + 1 + query[at]].lower())
                at += 1 + query[at]
            is_a = query[at + 1 : at + 3] == b"\0\1"
            known = labels[-2:] == [b"amazonaws", b"com"]
            # RFC 1035 4.1.1: authoritative; name error for what is not known.
            flags = b"\x85\x80" if known else b"\x85\x83"
            count = b"\0\1" if known and is_a else b"\0\0"
            head = query[:2] + flags + b"\0\1" + count + b"\0\0\0\0"
            sock.sendto(head + query[12 : at + 5] + (record if known and is_a else b""), peer)

    threading.Thread(target=answer, daemon=True).start()


def make_key(endpoint):
    """A user who may do everything, made before authentication is on."""
    iam = boto3.client(
        "iam",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="none",
        aws_secret_access_key="none",
    )
    iam.create_user(UserName="peer")
    allow = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
    iam.put_user_policy(UserName="peer", PolicyName="all", PolicyDocument=policy)
    return iam.create_access_key(UserName="peer")["AccessKey"]


def main():
    # LISTEN=ADDRESS pairs.
    for pair in sys.argv[1:]:
        serve_names(*pair.split("="))
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    key = make_key(f"http://127.0.0.1:{port}")
    moto.settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
    print("ready", port, key["AccessKeyId"], key["SecretAccessKey"], flush=True)
    threading.Event().wait()


main()
