package compat

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/IBM/sarama"
	kafkago "github.com/segmentio/kafka-go"
)

func TestSaramaProducesConsumesAndCommits(t *testing.T) {
	broker, topic := Broker(t, fastGroups...), Topic("sarama")
	for _, c := range []struct {
		name       string
		version    sarama.KafkaVersion
		codec      sarama.CompressionCodec
		idempotent bool
	}{
		{"default", sarama.DefaultVersion, sarama.CompressionNone, false},
		{"newest, idempotent", sarama.MaxVersion, sarama.CompressionLZ4, true},
		{"old", sarama.V1_0_0_0, sarama.CompressionSnappy, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := sarama.NewConfig()
			config.Version = c.version
			config.Producer.Return.Successes = true
			config.Producer.Compression = c.codec
			config.Consumer.Offsets.Initial = sarama.OffsetOldest
			if c.idempotent {
				config.Producer.Idempotent, config.Producer.RequiredAcks, config.Net.MaxOpenRequests = true, sarama.WaitForAll, 1
			}
			admin, err := sarama.NewClusterAdmin([]string{broker}, config)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = admin.Close() }()
			topic := topic + fmt.Sprint(time.Now().UnixNano())
			if err := admin.CreateTopic(topic, &sarama.TopicDetail{NumPartitions: 2, ReplicationFactor: 1}, false); err != nil {
				t.Fatal(err)
			}
			producer, err := sarama.NewSyncProducer([]string{broker}, config)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = producer.Close() }()
			const records = 500
			for i := range records {
				if _, _, err := producer.SendMessage(&sarama.ProducerMessage{Topic: topic, Value: sarama.StringEncoder(fmt.Sprint(i))}); err != nil {
					t.Fatal(err)
				}
			}
			group, err := sarama.NewConsumerGroup([]string{broker}, topic, config)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = group.Close() }()
			ctx, cancel := context.WithTimeout(t.Context(), shortRun)
			defer cancel()
			h := &saramaHandler{want: records, done: cancel, seen: map[string]bool{}, values: make(chan string)}
			go h.collect(ctx)
			for ctx.Err() == nil {
				if err := group.Consume(ctx, []string{topic}, h); err != nil && !errors.Is(err, context.Canceled) {
					t.Fatal(err)
				}
			}
			if len(h.seen) != records {
				t.Errorf("%d of %d records", len(h.seen), records)
			}
		})
	}
}

type saramaHandler struct {
	want   int
	done   func()
	seen   map[string]bool // collect's
	values chan string
}

func (*saramaHandler) Setup(sarama.ConsumerGroupSession) error   { return nil }
func (*saramaHandler) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (h *saramaHandler) ConsumeClaim(s sarama.ConsumerGroupSession, c sarama.ConsumerGroupClaim) error {
	for {
		select {
		case m, ok := <-c.Messages():
			if !ok {
				return nil
			}
			s.MarkMessage(m, "")
			select {
			case h.values <- string(m.Value):
			case <-s.Context().Done():
				return nil
			}
		case <-s.Context().Done():
			return nil
		}
	}
}

func (h *saramaHandler) collect(ctx context.Context) {
	for {
		select {
		case v := <-h.values:
			if h.seen[v] = true; len(h.seen) == h.want {
				h.done()
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

func TestKafkaGoWithItsOldVersionsAndAcksNone(t *testing.T) {
	broker := Broker(t, fastGroups...)
	ctx, cancel := context.WithTimeout(t.Context(), shortRun)
	defer cancel()
	for name, acks := range map[string]kafkago.RequiredAcks{"none": kafkago.RequireNone, "one": kafkago.RequireOne, "all": kafkago.RequireAll} {
		t.Run(name, func(t *testing.T) {
			topic := Topic("kafka-go")
			client := &kafkago.Client{Addr: kafkago.TCP(broker)}
			created, err := client.CreateTopics(ctx, &kafkago.CreateTopicsRequest{Topics: []kafkago.TopicConfig{{Topic: topic, NumPartitions: 1, ReplicationFactor: 1}}})
			if err == nil {
				err = created.Errors[topic]
			}
			if err != nil {
				t.Fatal(err)
			}
			w := &kafkago.Writer{Addr: kafkago.TCP(broker), Topic: topic, RequiredAcks: acks, BatchTimeout: 5 * time.Millisecond, Compression: kafkago.Zstd}
			const records = 200
			for i := range records {
				if err := w.WriteMessages(ctx, kafkago.Message{Value: fmt.Append(nil, i)}); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			r := kafkago.NewReader(kafkago.ReaderConfig{Brokers: []string{broker}, Topic: topic, GroupID: topic, MaxWait: 100 * time.Millisecond, StartOffset: kafkago.FirstOffset})
			defer func() { _ = r.Close() }()
			for i := range records {
				m, err := r.ReadMessage(ctx)
				if err != nil {
					t.Fatalf("record %d: %v", i, err)
				}
				if string(m.Value) != fmt.Sprint(i) || m.Offset != int64(i) {
					t.Fatalf("offset %d is %s, want %d", m.Offset, m.Value, i)
				}
			}
		})
	}
}

func TestSaramaAdmin(t *testing.T) {
	broker, topic, group := Broker(t, fastGroups...), Topic("sarama"), Topic("group")
	config := sarama.NewConfig()
	config.Version = sarama.MaxVersion
	config.Producer.Return.Successes = true
	admin, err := sarama.NewClusterAdmin([]string{broker}, config)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = admin.Close() }()
	ok := func(what string, good bool, err error, got ...any) {
		t.Helper()
		if err != nil || !good {
			t.Errorf("%s: %v, %+v", what, err, got)
		}
	}
	value := "60000"
	ok("create", true, admin.CreateTopic(topic, &sarama.TopicDetail{NumPartitions: 1, ReplicationFactor: 1, ConfigEntries: map[string]*string{"retention.ms": &value}}, false))
	err = admin.CreateTopic(topic, &sarama.TopicDetail{NumPartitions: 1, ReplicationFactor: 1}, false)
	if topicErr := (*sarama.TopicError)(nil); !errors.As(err, &topicErr) || topicErr.Err != sarama.ErrTopicAlreadyExists {
		t.Errorf("create again: %v", err)
	}
	producer, err := sarama.NewSyncProducer([]string{broker}, config)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = producer.Close() }()
	for i := range 10 {
		if _, at, err := producer.SendMessage(&sarama.ProducerMessage{Topic: topic, Value: sarama.StringEncoder("x")}); err != nil || at != int64(i) {
			t.Fatalf("offset %d: %v", at, err)
		}
	}
	topics, err := admin.ListTopics()
	ok("list topics", topics[topic].NumPartitions == 1, err, topics[topic])
	described, err := admin.DescribeTopics([]string{topic})
	ok("describe topics", len(described) == 1 && described[0].Err == sarama.ErrNoError, err, described)
	nodes, _, err := admin.DescribeCluster()
	ok("cluster", len(nodes) == 1, err, nodes)
	ok("partitions", true, admin.CreatePartitions(topic, 3, nil, false))
	ok("delete records", true, admin.DeleteRecords(topic, map[int32]int64{0: 4}))
	entries, err := admin.DescribeConfig(sarama.ConfigResource{Type: sarama.TopicResource, Name: topic, ConfigNames: []string{"retention.ms"}})
	ok("describe config", len(entries) == 1 && entries[0].Value == value, err, entries)
	ok("alter", true, admin.IncrementalAlterConfig(sarama.TopicResource, topic, map[string]sarama.IncrementalAlterConfigsEntry{
		"retention.ms": {Operation: sarama.IncrementalAlterConfigsOperationDelete},
	}, false))
	ok("alter all", true, admin.AlterConfig(sarama.TopicResource, topic, map[string]*string{"segment.bytes": kafkaString("1048576")}, false))
	dirs, err := admin.DescribeLogDirs([]int32{nodes[0].ID()})
	ok("log directories", len(dirs[nodes[0].ID()]) == 1, err, dirs)
	client, err := sarama.NewClient([]string{broker}, config)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	oldest, err := client.GetOffset(topic, 0, sarama.OffsetOldest)
	ok("oldest", oldest == 4, err, oldest)
	newest, err := client.GetOffset(topic, 0, sarama.OffsetNewest)
	ok("newest", newest == 10, err, newest)
	offsets, err := sarama.NewOffsetManagerFromClient(group, client)
	if err != nil {
		t.Fatal(err)
	}
	partition, err := offsets.ManagePartition(topic, 0)
	if err != nil {
		t.Fatal(err)
	}
	partition.MarkOffset(7, "why")
	offsets.Commit()
	ok("close", true, errors.Join(partition.Close(), offsets.Close()))
	committed, err := admin.ListConsumerGroupOffsets(group, map[string][]int32{topic: {0}})
	ok("committed", err == nil && committed.GetBlock(topic, 0).Offset == 7 && committed.GetBlock(topic, 0).Metadata == "why", err, committed)
	groups, err := admin.ListConsumerGroups()
	ok("groups", len(groups) == 1, err, groups)
	descriptions, err := admin.DescribeConsumerGroups([]string{group})
	ok("describe group", len(descriptions) == 1 && descriptions[0].State == "Empty", err, descriptions)
	ok("delete offset", true, admin.DeleteConsumerGroupOffset(group, topic, 0))
	ok("delete group", true, admin.DeleteConsumerGroup(group))
	ok("delete topic", true, admin.DeleteTopic(topic))
}

func kafkaString(s string) *string { return &s }

// Two readers share a topic, one goes, the other takes over; the client's admin calls are old versions.
func TestKafkaGoGroupAndAdmin(t *testing.T) {
	broker, topic := Broker(t, fastGroups...), Topic("kafka-go")
	ctx, cancel := context.WithTimeout(t.Context(), shortRun)
	defer cancel()
	client := &kafkago.Client{Addr: kafkago.TCP(broker)}
	if r, err := client.CreateTopics(ctx, &kafkago.CreateTopicsRequest{Topics: []kafkago.TopicConfig{{Topic: topic, NumPartitions: 4, ReplicationFactor: 1}}}); err != nil || r.Errors[topic] != nil {
		t.Fatal(r, err)
	}
	values := make(chan string, 100)
	reader := func() *kafkago.Reader {
		r := kafkago.NewReader(kafkago.ReaderConfig{
			Brokers: []string{broker}, Topic: topic, GroupID: topic, MaxWait: 100 * time.Millisecond, StartOffset: kafkago.FirstOffset,
			HeartbeatInterval: 300 * time.Millisecond, SessionTimeout: 6 * time.Second, RebalanceTimeout: 6 * time.Second,
		})
		go func() {
			for {
				m, err := r.ReadMessage(ctx)
				if err != nil {
					return
				}
				values <- string(m.Value)
			}
		}()
		return r
	}
	one, two := reader(), reader()
	defer func() { _ = two.Close() }()
	w := &kafkago.Writer{Addr: kafkago.TCP(broker), Topic: topic, RequiredAcks: kafkago.RequireAll, BatchTimeout: 5 * time.Millisecond, Balancer: &kafkago.RoundRobin{}}
	defer func() { _ = w.Close() }()
	seen := map[string]bool{}
	for round := range 2 {
		for i := range 100 {
			if err := w.WriteMessages(ctx, kafkago.Message{Value: fmt.Append(nil, round*100+i)}); err != nil {
				t.Fatal(err)
			}
		}
		for len(seen) < (round+1)*100 {
			select {
			case v := <-values:
				seen[v] = true
			case <-ctx.Done():
				t.Fatalf("round %d: %d records", round, len(seen))
			}
		}
		if round == 0 {
			if err := one.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if r, err := client.ListOffsets(ctx, &kafkago.ListOffsetsRequest{Topics: map[string][]kafkago.OffsetRequest{topic: {kafkago.LastOffsetOf(0), kafkago.FirstOffsetOf(0)}}}); err != nil || r.Topics[topic][0].FirstOffset != 0 || r.Topics[topic][0].LastOffset != 50 {
		t.Errorf("list offsets: %+v, %v", r, err)
	}
	if r, err := client.DescribeGroups(ctx, &kafkago.DescribeGroupsRequest{GroupIDs: []string{topic}}); err != nil || len(r.Groups) != 1 || r.Groups[0].Error != nil {
		t.Errorf("describe groups: %+v, %v", r, err)
	}
	if r, err := client.ListGroups(ctx, &kafkago.ListGroupsRequest{}); err != nil || len(r.Groups) != 1 {
		t.Errorf("list groups: %+v, %v", r, err)
	}
	if r, err := client.DescribeConfigs(ctx, &kafkago.DescribeConfigsRequest{Resources: []kafkago.DescribeConfigRequestResource{{ResourceType: kafkago.ResourceTypeTopic, ResourceName: topic}}}); err != nil || r.Resources[0].Error != nil {
		t.Errorf("describe configs: %+v, %v", r, err)
	}
	if r, err := client.DeleteTopics(ctx, &kafkago.DeleteTopicsRequest{Topics: []string{topic}}); err != nil || r.Errors[topic] != nil {
		t.Errorf("delete: %+v, %v", r, err)
	}
}
