"""Judges a broker with confluent-kafka (librdkafka): confluent.py HOST:PORT."""
import sys
import time
import uuid

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, NewTopic, OffsetSpec

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

# A group of two, one of them static: both read, one leaves, the other takes over.
topic, group = "cf-" + uuid.uuid4().hex, "g-" + uuid.uuid4().hex
for f in admin.create_topics([NewTopic(topic, num_partitions=4, replication_factor=1)]).values():
    f.result(30)
settings = {"bootstrap.servers": seeds, "group.id": group, "auto.offset.reset": "earliest", "session.timeout.ms": 6000,
            "heartbeat.interval.ms": 300, "partition.assignment.strategy": "cooperative-sticky"}
members = [Consumer(settings), Consumer({**settings, "group.instance.id": "one"})]
for m in members:
    m.subscribe([topic])
end = time.time() + 40
while time.time() < end and [len(m.assignment()) for m in members] != [2, 2]:
    for m in members:
        m.poll(0.1)
check([len(m.assignment()) for m in members] == [2, 2], "assignments", [m.assignment() for m in members])
producer = Producer({"bootstrap.servers": seeds})
for i in range(400):
    producer.produce(topic, value=b"%d" % i, partition=i % 4)
check(producer.flush(30) == 0, "flush")
seen = set()
while time.time() < end and len(seen) < 400:
    for m in members:
        seen |= {r.value() for r in m.consume(100, 0.2) if not r.error()}
check(len(seen) == 400, "the group read", len(seen))
members[0].close()
while time.time() < end and len(members[1].assignment()) != 4:
    members[1].poll(0.1)
check(len(members[1].assignment()) == 4, "take over", members[1].assignment())
described = admin.describe_consumer_groups([group])[group].result(20)
check(described.state.name == "STABLE" and described.members[0].group_instance_id == "one", "describe group", described.state, described.members)
members[1].close()
print("ok group")

resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
entry = ConfigEntry("retention.ms", "123456", incremental_operation=AlterConfigOpType.SET)
admin.incremental_alter_configs([ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])])[resource].result(20)
check(admin.describe_configs([resource])[resource].result(20)["retention.ms"].value == "123456", "configs")
tp = TopicPartition(topic, 0)
check(admin.list_offsets({tp: OffsetSpec.latest()})[tp].result(20).offset == 100, "list offsets")
check(admin.delete_records([TopicPartition(topic, 0, 40)])[TopicPartition(topic, 0, 40)].result(20).low_watermark == 40, "delete records")
check(admin.list_offsets({tp: OffsetSpec.earliest()})[tp].result(20).offset == 40, "earliest")
committed = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group].result(20).topic_partitions
check({p.offset for p in committed} <= {-1001, 100} and committed, "group offsets", committed)
check(group in [g.group_id for g in admin.list_consumer_groups().result(20).valid], "list groups")
check(len(admin.describe_cluster().result(20).nodes) == 1, "cluster")
check(len(admin.describe_topics(TopicCollection([topic]))[topic].result(20).partitions) == 4, "describe topics")
for f in admin.create_partitions([NewPartitions(topic, 6)]).values():
    f.result(20)
time.sleep(6.5)  # the static member's session ends
altered = admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, [TopicPartition(topic, 0, 70)])])[group].result(20)
check(altered.topic_partitions[0].error is None, "alter offsets", altered.topic_partitions)
admin.delete_consumer_groups([group])[group].result(20)
for f in admin.delete_topics([topic]).values():
    f.result(20)
print("ok admin")
