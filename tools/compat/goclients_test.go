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
			defer admin.Close()
			topic := topic + fmt.Sprint(time.Now().UnixNano())
			if err := admin.CreateTopic(topic, &sarama.TopicDetail{NumPartitions: 2, ReplicationFactor: 1}, false); err != nil {
				t.Fatal(err)
			}
			producer, err := sarama.NewSyncProducer([]string{broker}, config)
			if err != nil {
				t.Fatal(err)
			}
			defer producer.Close()
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
			defer group.Close()
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
			defer r.Close()
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
