"""The kafka-python side of the foreign-client proofs. See ci/foreign/README.md for the shared command line."""

import argparse
import json
import sys
import time

from kafka import KafkaConsumer, KafkaProducer, TopicPartition


def fail(text):
    print(f"kafka-python: {text}", file=sys.stderr)
    sys.exit(1)


def unhex(text):
    return None if text is None else bytes.fromhex(text)


def tohex(data):
    return None if data is None else bytes(data).hex()


def produce(args):
    options = {"acks": "all" if args.acks == "all" else int(args.acks)}
    if args.acks != "all":
        options["enable_idempotence"] = False
    producer = KafkaProducer(
        bootstrap_servers=args.bootstrap.split(","), client_id="foreign-kafka-python", linger_ms=20,
        compression_type=None if args.codec == "none" else args.codec, **options)
    sent = []
    with open(args.file, encoding="utf-8") as lines:
        for text in lines:
            if not text.strip():
                continue
            record = json.loads(text)
            headers = [(name, unhex(value)) for name, value in record.get("headers") or []]
            sent.append(producer.send(
                args.topic, key=unhex(record["key"]), value=unhex(record["value"]), headers=headers,
                partition=record["partition"], timestamp_ms=record["timestamp"]))
    producer.flush(args.timeout)
    for future in sent:
        future.get(timeout=args.timeout)
    producer.close()
    print(json.dumps({"produced": len(sent)}))


def consume(args):
    consumer = KafkaConsumer(
        bootstrap_servers=args.bootstrap.split(","), client_id="foreign-kafka-python", group_id=None,
        enable_auto_commit=False, auto_offset_reset="earliest", isolation_level=args.isolation, check_crcs=True)
    if args.partitions == "all":
        numbers = consumer.partitions_for_topic(args.topic)
        if not numbers:
            fail(f"no topic {args.topic}")
    else:
        numbers = {int(one) for one in args.partitions.split(",")}
    every = [TopicPartition(args.topic, number) for number in sorted(numbers)]
    consumer.assign(every)
    first, last = consumer.beginning_offsets(every), consumer.end_offsets(every)
    for partition in every:
        consumer.seek(partition, first[partition])
    lines, until = [], time.monotonic() + args.timeout
    while any(consumer.position(partition) < last[partition] for partition in every):
        if time.monotonic() > until:
            fail(f"{len(lines)} records in {args.timeout} s; ends {last}")
        for partition, records in consumer.poll(timeout_ms=200).items():
            for record in records:
                if record.offset < last[partition]:
                    lines.append({
                        "partition": record.partition, "offset": record.offset, "timestamp": record.timestamp,
                        "key": tohex(record.key), "value": tohex(record.value),
                        "headers": [[name, tohex(value)] for name, value in record.headers]})
    consumer.close()
    lines.sort(key=lambda line: (line["partition"], line["offset"]))
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
