"""Judges a broker with kafka-python: kafka_python.py HOST:PORT."""
import sys
import threading
import time
import uuid

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic

seeds = sys.argv[1]


def check(ok, *what):
    if not ok:
        sys.exit("FAIL " + " ".join(map(str, what)))


admin = KafkaAdminClient(bootstrap_servers=seeds)
for codec in (None, "gzip", "snappy", "lz4", "zstd"):
    topic = "kp-" + uuid.uuid4().hex
    admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
    producer = KafkaProducer(bootstrap_servers=seeds, compression_type=codec)
    sent = [producer.send(topic, key=b"k%d" % i, value=b"v%d" % i, headers=[("h", b"x")]) for i in range(1000)]
    for i, future in enumerate(sent):
        check(future.get(30).offset == i, codec, "offset", i)
    producer.close()
    consumer = KafkaConsumer(topic, bootstrap_servers=seeds, group_id="g-" + topic, auto_offset_reset="earliest", consumer_timeout_ms=20000)
    for i in range(1000):
        record = next(consumer)
        check(record.offset == i and record.value == b"v%d" % i and record.headers[0] == ("h", b"x"), codec, record)
    consumer.commit()
    check(consumer.committed(TopicPartition(topic, 0)) == 1000, "committed")
    consumer.close()
    print("ok", codec)

# Two members share the partitions of a topic.
topic, group = "kp-" + uuid.uuid4().hex, "g-" + uuid.uuid4().hex
admin.create_topics([NewTopic(topic, num_partitions=4, replication_factor=1)])
members = [KafkaConsumer(topic, bootstrap_servers=seeds, group_id=group, session_timeout_ms=6000, heartbeat_interval_ms=500) for _ in range(2)]


def until_shared(me):
    # Each in a thread of its own: polled in turns, this client gives up its own joins and starts over.
    end = time.time() + 40
    while time.time() < end and sorted(len(m.assignment()) for m in members) != [2, 2]:
        me.poll(500)


threads = [threading.Thread(target=until_shared, args=(m,)) for m in members]
for t in threads:
    t.start()
for t in threads:
    t.join()
check(sorted(len(m.assignment()) for m in members) == [2, 2], "assignments", [m.assignment() for m in members])
for m in members:
    m.close()
print("ok group")
check(group in [g[0] if isinstance(g, tuple) else getattr(g, "group_id", g.get("group_id") if isinstance(g, dict) else g) for g in admin.list_groups()]
      if hasattr(admin, "list_groups") else True, "list groups")
admin.delete_topics([topic])
print("ok admin")
