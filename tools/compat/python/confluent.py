"""Judges a broker with confluent-kafka (librdkafka): confluent.py HOST:PORT."""
import sys
import uuid

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

seeds = sys.argv[1]


def check(ok, *what):
    if not ok:
        sys.exit("FAIL " + " ".join(map(str, what)))


admin = AdminClient({"bootstrap.servers": seeds})
for settings in ({}, {"enable.idempotence": True, "compression.type": "zstd"}, {"acks": 1, "compression.type": "lz4"}):
    topic = "cf-" + uuid.uuid4().hex
    for f in admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)]).values():
        f.result(30)
    offsets, failed = [], []
    producer = Producer({"bootstrap.servers": seeds, **settings})
    for i in range(5000):
        producer.produce(topic, value=b"v%d" % i, on_delivery=lambda e, m: failed.append(e) if e else offsets.append(m.offset()))
        producer.poll(0)
    check(producer.flush(30) == 0 and not failed and offsets == list(range(5000)), settings, failed[:3], offsets[:5])
    consumer = Consumer({"bootstrap.servers": seeds, "group.id": "g-" + topic, "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    got = []
    while len(got) < 5000:
        batch = consumer.consume(1000, 20)
        check(batch, "nothing came after", len(got))
        check(not any(m.error() for m in batch), [m.error() for m in batch if m.error()])
        got += [m.value() for m in batch]
    check(got == [b"v%d" % i for i in range(5000)], "order")
    consumer.commit(asynchronous=False)
    check(consumer.committed([TopicPartition(topic, 0)])[0].offset == 5000, "committed")
    consumer.close()
    print("ok", settings)
