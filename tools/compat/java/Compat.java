import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.*;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.*;
import org.apache.kafka.common.serialization.*;

/** Judges a broker with the Java client: java Compat.java HOST:PORT. Exits with 1 and the reason if it fails. */
public class Compat {
    static String seeds;

    public static void main(String[] args) throws Exception {
        seeds = args[0];
        run("produce and consume with every codec", Compat::codecs);
        run("order with the default producer", Compat::order);
        run("group: two members, commits, cooperative", Compat::group);
        run("static member", Compat::staticMember);
        run("admin client", Compat::administration);
        run("consumer lag and offsets", Compat::offsets);
        run("too large, unknown topic, wrong settings", Compat::errors);
        run("what is not there is refused", Compat::refused);
        System.exit(0);
    }

    interface Part { void run() throws Exception; }

    static void run(String name, Part part) {
        long began = System.nanoTime();
        try {
            part.run();
            System.out.printf("ok   %-45s %d ms%n", name, (System.nanoTime() - began) / 1_000_000);
        } catch (Throwable e) {
            System.out.println("FAIL " + name);
            e.printStackTrace(System.out);
            System.exit(1);
        }
    }

    static void check(boolean ok, String what, Object... values) {
        if (!ok) throw new AssertionError(what + " " + Arrays.toString(values));
    }

    static String topic(Admin admin, int partitions) throws Exception {
        String name = "java-" + System.nanoTime();
        admin.createTopics(List.of(new NewTopic(name, Optional.of(partitions), Optional.empty()))).all().get(30, TimeUnit.SECONDS);
        return name;
    }

    static Admin admin() { return Admin.create(Map.of("bootstrap.servers", seeds, "default.api.timeout.ms", "20000", "request.timeout.ms", "15000")); }

    static KafkaProducer<String, String> producer(String... settings) {
        Map<String, Object> all = new HashMap<>(Map.of("bootstrap.servers", seeds, "max.block.ms", "20000"));
        for (int i = 0; i < settings.length; i += 2) all.put(settings[i], settings[i + 1]);
        return new KafkaProducer<>(all, new StringSerializer(), new StringSerializer());
    }

    static KafkaConsumer<String, String> consumer(String... settings) {
        Map<String, Object> all = new HashMap<>(Map.of("bootstrap.servers", seeds, "auto.offset.reset", "earliest", "session.timeout.ms", "6000", "heartbeat.interval.ms", "500"));
        for (int i = 0; i < settings.length; i += 2) all.put(settings[i], settings[i + 1]);
        return new KafkaConsumer<>(all, new StringDeserializer(), new StringDeserializer());
    }

    static List<ConsumerRecord<String, String>> read(KafkaConsumer<String, String> c, int want) {
        List<ConsumerRecord<String, String>> all = new ArrayList<>();
        long end = System.nanoTime() + 30_000_000_000L;
        while (all.size() < want && System.nanoTime() < end) c.poll(Duration.ofMillis(200)).forEach(all::add);
        return all;
    }

    static void codecs() throws Exception {
        try (Admin admin = admin()) {
            for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
                String topic = topic(admin, 1);
                try (var p = producer("compression.type", codec, "linger.ms", "20")) {
                    for (int i = 0; i < 1000; i++) p.send(new ProducerRecord<>(topic, 0, "k" + i, "value " + i + " " + "x".repeat(i % 50)));
                }
                try (var c = consumer()) {
                    c.assign(List.of(new TopicPartition(topic, 0)));
                    var got = read(c, 1000);
                    check(got.size() == 1000, codec, got.size());
                    for (int i = 0; i < 1000; i++)
                        check(got.get(i).offset() == i && got.get(i).key().equals("k" + i) && got.get(i).value().startsWith("value " + i + " "), codec, i, got.get(i));
                }
            }
        }
    }

    static void order() throws Exception {
        try (Admin admin = admin(); var p = producer()) { // idempotent, acks all, 5 in flight
            String topic = topic(admin, 1);
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            for (int i = 0; i < 20_000; i++) sent.add(p.send(new ProducerRecord<>(topic, String.valueOf(i))));
            for (int i = 0; i < sent.size(); i++) {
                long at = sent.get(i).get(30, TimeUnit.SECONDS).offset();
                check(at == i, "record", i, "offset", at);
            }
            try (var c = consumer("isolation.level", "read_committed")) {
                c.assign(List.of(new TopicPartition(topic, 0)));
                var got = read(c, 20_000);
                for (int i = 0; i < 20_000; i++) check(got.get(i).value().equals(String.valueOf(i)), "order", i);
            }
        }
    }

    static void group() throws Exception {
        for (String assignor : List.of("org.apache.kafka.clients.consumer.RangeAssignor", "org.apache.kafka.clients.consumer.CooperativeStickyAssignor")) {
            try (Admin admin = admin()) {
                String topic = topic(admin, 4), group = "group-" + System.nanoTime();
                try (var p = producer()) {
                    for (int i = 0; i < 4000; i++) p.send(new ProducerRecord<>(topic, i % 4, "", String.valueOf(i)));
                }
                String[] settings = {"group.id", group, "partition.assignment.strategy", assignor, "enable.auto.commit", "false", "max.poll.records", "50"};
                Set<String> seen = ConcurrentHashMap.newKeySet();
                Set<Integer> members = ConcurrentHashMap.newKeySet();
                CountDownLatch first = new CountDownLatch(1);
                Callable<Void> member = () -> {
                    try (var c = consumer(settings)) {
                        c.subscribe(List.of(topic));
                        long end = System.nanoTime() + 40_000_000_000L;
                        while ((seen.size() < 4000 || members.size() < 2) && System.nanoTime() < end) {
                            var records = c.poll(Duration.ofMillis(100));
                            if (c.assignment().size() == 2) members.add(System.identityHashCode(c));
                            records.forEach(r -> seen.add(r.value()));
                            try {
                                c.commitSync();
                            } catch (CommitFailedException | RebalanceInProgressException e) {
                                continue; // the group moves on: what was read is read again
                            }
                            first.countDown();
                        }
                    }
                    return null;
                };
                ExecutorService pool = Executors.newFixedThreadPool(2);
                var a = pool.submit(member);
                first.await(30, TimeUnit.SECONDS);
                var b = pool.submit(member);
                a.get();
                b.get();
                pool.shutdown();
                check(seen.size() == 4000, assignor, seen.size());
                check(members.size() == 2, assignor + ": both members had two partitions", members.size());
                long committed = 0;
                for (var o : admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get(20, TimeUnit.SECONDS).values()) committed += o.offset();
                check(committed > 0 && committed <= 4000, "committed", committed);
            }
        }
    }

    static void staticMember() throws Exception {
        try (Admin admin = admin()) {
            String topic = topic(admin, 2), group = "static-" + System.nanoTime();
            String[] settings = {"group.id", group, "group.instance.id", "one"};
            String before, after;
            try (var c = consumer(settings)) {
                c.subscribe(List.of(topic));
                for (int i = 0; i < 100 && c.assignment().isEmpty(); i++) c.poll(Duration.ofMillis(100));
                check(c.assignment().size() == 2, "assignment", c.assignment());
                before = c.groupMetadata().memberId();
            }
            try (var c = consumer(settings)) { // comes back before its session ends: no rebalance, another member id
                c.subscribe(List.of(topic));
                for (int i = 0; i < 100 && c.assignment().isEmpty(); i++) c.poll(Duration.ofMillis(100));
                check(c.assignment().size() == 2, "assignment after the return", c.assignment());
                after = c.groupMetadata().memberId();
            }
            check(!before.equals(after), "member id", before, after);
            var members = admin.describeConsumerGroups(List.of(group)).all().get(20, TimeUnit.SECONDS).get(group).members();
            check(members.size() == 1 && members.iterator().next().groupInstanceId().orElse("").equals("one"), "members", members);
            admin.removeMembersFromConsumerGroup(group, new RemoveMembersFromConsumerGroupOptions(List.of(new MemberToRemove("one")))).all().get(20, TimeUnit.SECONDS);
            check(admin.describeConsumerGroups(List.of(group)).all().get(20, TimeUnit.SECONDS).get(group).members().isEmpty(), "removed");
        }
    }

    static void administration() throws Exception {
        try (Admin admin = admin()) {
            String topic = topic(admin, 1);
            var cluster = admin.describeCluster();
            check(get(cluster.nodes()).size() == 1 && get(cluster.clusterId()).length() >= 16 && get(cluster.controller()) != null, "cluster");
            var described = get(admin.describeTopics(List.of(topic)).allTopicNames()).get(topic);
            check(described.partitions().size() == 1 && !described.topicId().equals(Uuid.ZERO_UUID), "topic", described);
            check(get(admin.listTopics().names()).contains(topic), "list");
            get(admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(3))).all());
            check(get(admin.describeTopics(List.of(topic)).allTopicNames()).get(topic).partitions().size() == 3, "partitions");
            try {
                get(admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(2))).all());
                check(false, "fewer partitions were accepted");
            } catch (InvalidPartitionsException e) { /* as it should */ }
            try {
                get(admin.createTopics(List.of(new NewTopic(topic, 1, (short) 1))).all());
                check(false, "a topic was created twice");
            } catch (TopicExistsException e) { /* as it should */ }
            try {
                get(admin.createTopics(List.of(new NewTopic("bad/name", 1, (short) 1))).all());
                check(false, "a bad name was accepted");
            } catch (InvalidTopicException e) { /* as it should */ }
            try {
                get(admin.createTopics(List.of(new NewTopic("three-replicas", 1, (short) 3))).all());
                check(false, "three replicas on one broker were accepted");
            } catch (InvalidReplicationFactorException e) { /* as it should */ }

            var resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
            get(admin.incrementalAlterConfigs(Map.of(resource, List.of(
                new AlterConfigOp(new ConfigEntry("retention.ms", "60000"), AlterConfigOp.OpType.SET),
                new AlterConfigOp(new ConfigEntry("cleanup.policy", "compact"), AlterConfigOp.OpType.APPEND)))).all());
            var config = get(admin.describeConfigs(List.of(resource), new DescribeConfigsOptions().includeSynonyms(true).includeDocumentation(true)).all()).get(resource);
            check(config.get("retention.ms").value().equals("60000") && config.get("retention.ms").source() == ConfigEntry.ConfigSource.DYNAMIC_TOPIC_CONFIG, "retention.ms", config.get("retention.ms"));
            check(config.get("cleanup.policy").value().contains("compact"), "cleanup.policy", config.get("cleanup.policy"));
            check(config.get("flush.messages") != null && config.get("segment.bytes").isDefault(), "defaults", config.get("segment.bytes"));
            try {
                get(admin.incrementalAlterConfigs(Map.of(resource, List.of(new AlterConfigOp(new ConfigEntry("retention.ms", "soon"), AlterConfigOp.OpType.SET)))).all());
                check(false, "a wrong value was accepted");
            } catch (InvalidConfigurationException e) { /* as it should */ }
            var broker = new ConfigResource(ConfigResource.Type.BROKER, get(cluster.nodes()).iterator().next().idString());
            check(!get(admin.describeConfigs(List.of(broker)).all()).get(broker).entries().isEmpty(), "broker settings");

            try (var p = producer()) {
                for (int i = 0; i < 100; i++) p.send(new ProducerRecord<>(topic, 0, 1_000_000L + i, "k", "v")).get(20, TimeUnit.SECONDS);
            }
            var tp = new TopicPartition(topic, 0);
            check(get(admin.listOffsets(Map.of(tp, OffsetSpec.earliest())).partitionResult(tp)).offset() == 0, "earliest");
            check(get(admin.listOffsets(Map.of(tp, OffsetSpec.latest())).partitionResult(tp)).offset() == 100, "latest");
            check(get(admin.listOffsets(Map.of(tp, OffsetSpec.forTimestamp(1_000_050L))).partitionResult(tp)).offset() == 50, "by timestamp");
            check(get(admin.listOffsets(Map.of(tp, OffsetSpec.forTimestamp(2_000_000L))).partitionResult(tp)).offset() == -1, "beyond the last timestamp");
            check(get(admin.listOffsets(Map.of(tp, OffsetSpec.maxTimestamp())).partitionResult(tp)).offset() == 99, "max timestamp");
            check(get(admin.describeProducers(List.of(tp)).partitionResult(tp)).activeProducers().size() == 1, "producers");
            check(get(admin.deleteRecords(Map.of(tp, RecordsToDelete.beforeOffset(30))).lowWatermarks().get(tp)).lowWatermark() == 30, "delete records");
            check(get(admin.listOffsets(Map.of(tp, OffsetSpec.earliest())).partitionResult(tp)).offset() == 30, "earliest after the deletion");
            var dirs = get(admin.describeLogDirs(List.of(Integer.parseInt(broker.name()))).allDescriptions()).get(Integer.parseInt(broker.name()));
            check(dirs.size() == 1 && dirs.values().iterator().next().replicaInfos().get(tp).size() > 0, "log directories", dirs);
            get(admin.deleteTopics(List.of(topic)).all());
            check(!get(admin.listTopics().names()).contains(topic), "deleted");
            try {
                get(admin.describeTopics(List.of(topic)).allTopicNames());
                check(false, "a deleted topic can be described");
            } catch (UnknownTopicOrPartitionException e) { /* as it should */ }
        }
    }

    static void offsets() throws Exception {
        try (Admin admin = admin()) {
            String topic = topic(admin, 1), group = "offsets-" + System.nanoTime();
            var tp = new TopicPartition(topic, 0);
            try (var p = producer()) {
                for (int i = 0; i < 10; i++) p.send(new ProducerRecord<>(topic, "v"));
            }
            try (var c = consumer("group.id", group, "enable.auto.commit", "false")) {
                c.assign(List.of(tp)); // a group without members: offsets only
                c.commitSync(Map.of(tp, new OffsetAndMetadata(4, "why")));
                check(c.committed(Set.of(tp)).get(tp).offset() == 4 && c.committed(Set.of(tp)).get(tp).metadata().equals("why"), "committed", c.committed(Set.of(tp)));
                check(c.endOffsets(List.of(tp)).get(tp) == 10 && c.beginningOffsets(List.of(tp)).get(tp) == 0, "ends");
                check(read(c, 6).size() == 6, "from the committed offset on");
            }
            check(get(admin.listGroups().all()).stream().anyMatch(g -> g.groupId().equals(group)), "list groups");
            get(admin.alterConsumerGroupOffsets(group, Map.of(tp, new OffsetAndMetadata(2))).all());
            check(get(admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata()).get(tp).offset() == 2, "altered");
            get(admin.deleteConsumerGroupOffsets(group, Set.of(tp)).all());
            check(get(admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata()).get(tp) == null, "offsets deleted");
            get(admin.alterConsumerGroupOffsets(group, Map.of(tp, new OffsetAndMetadata(2))).all());
            get(admin.deleteConsumerGroups(List.of(group)).all());
            try {
                get(admin.deleteConsumerGroups(List.of(group)).all());
                check(false, "a group was deleted twice");
            } catch (GroupIdNotFoundException e) { /* as it should */ }
        }
    }

    static void errors() throws Exception {
        try (Admin admin = admin()) {
            String topic = topic(admin, 1);
            try (var p = producer("max.request.size", "10000000", "buffer.memory", "50000000")) {
                try {
                    p.send(new ProducerRecord<>(topic, "x".repeat(3_000_000))).get(30, TimeUnit.SECONDS);
                    check(false, "3 MB were accepted");
                } catch (ExecutionException e) {
                    check(e.getCause() instanceof RecordTooLargeException, "error", e.getCause());
                }
                check(p.send(new ProducerRecord<>(topic, "after")).get(30, TimeUnit.SECONDS).offset() == 0, "the producer goes on");
            }
            get(admin.incrementalAlterConfigs(Map.of(new ConfigResource(ConfigResource.Type.TOPIC, topic), List.of(
                new AlterConfigOp(new ConfigEntry("cleanup.policy", "compact"), AlterConfigOp.OpType.SET)))).all());
            try (var p = producer("max.block.ms", "5000")) {
                try {
                    p.send(new ProducerRecord<>(topic, null, "no key")).get(30, TimeUnit.SECONDS);
                    check(false, "a record without a key was accepted for a compacted topic");
                } catch (ExecutionException e) {
                    check(e.getCause() instanceof InvalidRecordException, "error", e.getCause());
                }
            }
            try (var c = consumer("auto.offset.reset", "none")) {
                c.assign(List.of(new TopicPartition(topic, 0)));
                c.seek(new TopicPartition(topic, 0), 1_000);
                try {
                    for (int i = 0; i < 50; i++) c.poll(Duration.ofMillis(100));
                    check(false, "an offset beyond the end was accepted");
                } catch (org.apache.kafka.clients.consumer.OffsetOutOfRangeException e) { /* as it should */ }
            }
            String auto = "auto-" + System.nanoTime();
            try (var p = producer()) {
                check(p.send(new ProducerRecord<>(auto, "v")).get(30, TimeUnit.SECONDS).offset() == 0, "a topic made by its first record");
            }
        }
    }

    /** Transactions and new group protocols are not there yet: a client must get an error soon, not hang. */
    static void refused() throws Exception {
        try (var p = producer("transactional.id", "t", "max.block.ms", "20000")) {
            long began = System.nanoTime();
            try {
                p.initTransactions();
                System.out.println("     (transactions are there)");
            } catch (org.apache.kafka.common.errors.TimeoutException e) {
                check(false, "initTransactions hung", e);
            } catch (KafkaException e) {
                check(System.nanoTime() - began < 15_000_000_000L, "initTransactions took too long", e);
            }
        }
        try (Admin admin = admin(); var c = new KafkaConsumer<>(Map.<String, Object>of("bootstrap.servers", seeds, "group.id", "new-" + System.nanoTime(), "group.protocol", "consumer"),
                new StringDeserializer(), new StringDeserializer())) {
            c.subscribe(List.of(topic(admin, 1)));
            try {
                for (int i = 0; i < 50 && c.assignment().isEmpty(); i++) c.poll(Duration.ofMillis(100));
                check(!c.assignment().isEmpty(), "group.protocol=consumer hung");
                System.out.println("     (group.protocol=consumer is there)");
            } catch (UnsupportedVersionException e) { /* as it should */ }
        }
        try (Admin admin = admin()) {
            try {
                get(admin.describeAcls(org.apache.kafka.common.acl.AclBindingFilter.ANY).values());
            } catch (SecurityDisabledException | UnsupportedVersionException e) { /* honest */ }
            try {
                get(admin.describeClientQuotas(org.apache.kafka.common.quota.ClientQuotaFilter.all()).entities());
            } catch (UnsupportedVersionException e) { /* honest */ }
        }
    }

    static <T> T get(KafkaFuture<T> f) throws Exception {
        try {
            return f.get(20, TimeUnit.SECONDS);
        } catch (ExecutionException e) {
            if (e.getCause() instanceof Exception inner) throw inner;
            throw e;
        }
    }
}
