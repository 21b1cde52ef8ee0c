"""kcat (the system's librdkafka) behind the shared command line of ci/foreign.

kcat cannot express everything: it writes only records with non-empty text keys and values, no headers and no
timestamp of its own, and it prints headers as text, so `headers` is null and `headers_text` holds `name=value,...`.
"""

import argparse
import json
import subprocess
import sys


def fail(text):
    print(f"kcat: {text}", file=sys.stderr)
    sys.exit(1)


def produce(args):
    groups = {}
    with open(args.file, encoding="utf-8") as lines:
        for text in filter(str.strip, lines):
            record = json.loads(text)
            key, value = (bytes.fromhex(record[name] or "") for name in ("key", "value"))
            if not key or not value or record.get("headers") or b"\n" in key + value or b"\t" in key:
                fail("cannot express this record: " + text.strip()[:200])
            groups.setdefault(record["partition"], []).append(key + b"\t" + value + b"\n")
    codec = [] if args.codec == "none" else ["-z", args.codec]
    for partition, records in sorted(groups.items()):
        run = subprocess.run(
            ["kcat", "-P", "-b", args.bootstrap, "-t", args.topic, "-p", str(partition), "-K", "\t", "-X", f"acks={args.acks}",
             "-X", f"message.timeout.ms={int(args.timeout * 1000)}", *codec], input=b"".join(records), timeout=args.timeout)
        if run.returncode != 0:
            fail(f"produce ended with {run.returncode}")
    print(json.dumps({"produced": sum(map(len, groups.values()))}))


def partitions(args):
    if args.partitions != "all":
        return sorted(int(one) for one in args.partitions.split(","))
    said = subprocess.run(["kcat", "-L", "-J", "-b", args.bootstrap, "-t", args.topic], stdout=subprocess.PIPE,
                          timeout=args.timeout, check=True).stdout
    found = [topic for topic in json.loads(said)["topics"] if topic["topic"] == args.topic]
    if not found or not found[0]["partitions"]:
        fail(f"no topic {args.topic}: {said.decode()}")
    return sorted(one["partition"] for one in found[0]["partitions"])


def number(data, at):
    """The decimal number before the next space, and where the next field begins."""
    end = data.index(b" ", at)
    return int(data[at:end]), end + 1


def parse(data):
    at = 0
    while at < len(data):
        partition, at = number(data, at)
        offset, at = number(data, at)
        timestamp, at = number(data, at)
        key_length, at = number(data, at)
        value_length, at = number(data, at)
        headers_length = data.index(b"\x1e\x1f\x1e", at)
        headers, at = data[at:headers_length], headers_length + 3
        key, at = (None, at) if key_length < 0 else (data[at:at + key_length], at + key_length)
        value, at = (None, at) if value_length < 0 else (data[at:at + value_length], at + value_length)
        if data[at:at + 1] != b"\n":
            fail(f"cannot parse kcat's output at byte {at}")
        at += 1
        yield {"partition": partition, "offset": offset, "timestamp": timestamp,
               "key": None if key is None else key.hex(), "value": None if value is None else value.hex(),
               "headers": None, "headers_text": headers.decode(errors="replace")}


def consume(args):
    lines = []
    for partition in partitions(args):
        run = subprocess.run(
            ["kcat", "-C", "-q", "-e", "-b", args.bootstrap, "-t", args.topic, "-p", str(partition), "-o", "beginning",
             "-X", f"isolation.level={args.isolation}", "-X", "check.crcs=true",
             "-f", r"%p %o %T %K %S %h\x1e\x1f\x1e%k%s\n"], stdout=subprocess.PIPE, timeout=args.timeout)
        if run.returncode != 0:
            fail(f"consume ended with {run.returncode}")
        lines += parse(run.stdout)
    for line in lines:
        print(json.dumps(line, separators=(",", ":")))
    if args.count >= 0 and args.count != len(lines):
        sys.stdout.flush()
        fail(f"{len(lines)} records where {args.count} were expected")


def main():
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("produce", "consume"):
        one = verbs.add_parser(verb)
        one.add_argument("--bootstrap", required=True)
        one.add_argument("--topic", required=True)
        one.add_argument("--timeout", type=float, default=60)
        if verb == "produce":
            one.add_argument("--codec", default="none", choices=("none", "gzip", "snappy", "lz4", "zstd"))
            one.add_argument("--file", required=True)
            one.add_argument("--acks", default="all", choices=("all", "1", "0"))
        else:
            one.add_argument("--partitions", default="all")
            one.add_argument("--count", type=int, default=-1)
            one.add_argument("--isolation", default="read_uncommitted", choices=("read_uncommitted", "read_committed"))
    args = parser.parse_args()
    (produce if args.verb == "produce" else consume)(args)


main()
