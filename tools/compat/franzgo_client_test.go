package compat

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// read polls until n records came.
func read(t testing.TB, c *kgo.Client, n int) (all []*kgo.Record) {
	t.Helper()
	ctx := within(t, 30*time.Second)
	for len(all) < n {
		f := c.PollFetches(ctx)
		if err := f.Err(); err != nil {
			t.Fatalf("after %d of %d records: %v", len(all), n, err)
		}
		all = append(all, f.Records()...)
	}
	return all
}

// Keys, values, headers, timestamps and order come back as they went, whatever the codec; null and empty are two things.
func TestFranzGoRecordsComeBackAsTheyWent(t *testing.T) {
	broker := Broker(t)
	for name, opts := range map[string][]kgo.Opt{
		"default, idempotent": nil,
		"none":                {kgo.ProducerBatchCompression(kgo.NoCompression())},
		"gzip":                {kgo.ProducerBatchCompression(kgo.GzipCompression())},
		"snappy":              {kgo.ProducerBatchCompression(kgo.SnappyCompression())},
		"lz4":                 {kgo.ProducerBatchCompression(kgo.Lz4Compression())},
		"zstd":                {kgo.ProducerBatchCompression(kgo.ZstdCompression())},
		"not idempotent":      {kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.LeaderAck()), kgo.MaxProduceRequestsInflightPerBroker(1)},
		"acks 0":              {kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.NoAck()), kgo.MaxProduceRequestsInflightPerBroker(1)},
	} {
		t.Run(name, func(t *testing.T) {
			const n = 2000
			topic := createTopic(t, broker, 1)
			p := franz(t, broker, append(opts, kgo.DefaultProduceTopic(topic))...)
			began := time.Now().Add(-time.Hour).Truncate(time.Millisecond)
			sent := make([]*kgo.Record, n)
			for i := range sent {
				r := &kgo.Record{Key: fmt.Appendf(nil, "k%d", i), Value: bytes.Repeat([]byte{byte(i)}, i%300), Timestamp: began.Add(time.Duration(i) * time.Millisecond)}
				r.Headers = []kgo.RecordHeader{{Key: "n", Value: fmt.Append(nil, i)}, {Key: "n", Value: nil}}
				switch i % 7 {
				case 1:
					r.Key = nil
				case 2:
					r.Value = nil
				case 3:
					r.Headers = nil
				}
				sent[i] = r
			}
			if err := p.ProduceSync(within(t, 30*time.Second), sent...).FirstErr(); err != nil {
				t.Fatal(err)
			}
			for i, r := range read(t, franz(t, broker, kgo.ConsumeTopics(topic)), n) {
				s := sent[i]
				if r.Offset != int64(i) || !bytes.Equal(r.Key, s.Key) || (r.Key == nil) != (s.Key == nil) || !bytes.Equal(r.Value, s.Value) || (r.Value == nil) != (s.Value == nil) ||
					!r.Timestamp.Equal(s.Timestamp) || len(r.Headers) != len(s.Headers) || len(r.Headers) > 0 && (r.Headers[1].Value != nil || !bytes.Equal(r.Headers[0].Value, s.Headers[0].Value)) {
					t.Fatalf("record %d: %+v came back as %+v", i, s, r)
				}
			}
		})
	}
}

// A topic is deleted and made again while clients use it. They hold on to its id, so they are told that it is gone
// instead of mixing the two; after purging it they work with the new one.
func TestFranzGoTopicIsRecreatedUnderTheClient(t *testing.T) {
	t.Parallel()
	broker := Broker(t)
	topic := createTopic(t, broker, 1)
	adm := kadm.NewClient(franz(t, broker))
	p := franz(t, broker, kgo.DefaultProduceTopic(topic))
	c := franz(t, broker, kgo.ConsumeTopics(topic), kgo.FetchMaxWait(200*time.Millisecond))
	if err := p.ProduceSync(within(t, 20*time.Second), kgo.StringRecord("old")).FirstErr(); err != nil {
		t.Fatal(err)
	}
	read(t, c, 1)
	if r, err := adm.DeleteTopic(within(t, 20*time.Second), topic); err != nil || r.Err != nil {
		t.Fatal(r.Err, err)
	}
	if _, err := adm.CreateTopic(within(t, 20*time.Second), 1, 1, nil, topic); err != nil {
		t.Fatal(err)
	}
	if err := franz(t, broker, kgo.DefaultProduceTopic(topic)).ProduceSync(within(t, 20*time.Second), kgo.StringRecord("new")).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := p.ProduceSync(within(t, 20*time.Second), kgo.StringRecord("lost")).FirstErr(); !errors.Is(err, kerr.UnknownTopicID) {
		t.Errorf("the old producer: %v", err)
	}
	for ctx, gone := within(t, 20*time.Second), false; !gone; {
		c.PollFetches(ctx).EachError(func(_ string, _ int32, err error) {
			if gone = errors.Is(err, kerr.UnknownTopicID); !gone {
				t.Fatalf("the old consumer: %v", err)
			}
		})
	}
	p.PurgeTopicsFromClient(topic)
	c.PurgeTopicsFromClient(topic)
	c.AddConsumeTopics(topic)
	if err := p.ProduceSync(within(t, 20*time.Second), kgo.StringRecord("new too")).FirstErr(); err != nil {
		t.Errorf("the producer after purging: %v", err)
	}
	for i, r := range read(t, c, 2) {
		if want := []string{"new", "new too"}[i]; string(r.Value) != want || r.Offset != int64(i) {
			t.Errorf("offset %d: %s, want %s", r.Offset, r.Value, want)
		}
	}
}

func TestFranzGoDeletedRecordsOffsetsByTimeAndReadCommitted(t *testing.T) {
	broker := Broker(t)
	topic := createTopic(t, broker, 1, "message.timestamp.type", "CreateTime")
	adm := kadm.NewClient(franz(t, broker))
	p := franz(t, broker, kgo.DefaultProduceTopic(topic))
	began := time.Now().Add(-time.Hour).Truncate(time.Second)
	for i := range 100 {
		r := kgo.StringRecord(fmt.Sprint(i))
		r.Timestamp = began.Add(time.Duration(i) * time.Second)
		if err := p.ProduceSync(within(t, 20*time.Second), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	ctx := within(t, 60*time.Second)
	for at, want := range map[int]int64{-10: 0, 0: 0, 42: 42, 99: 99, 100: 100} {
		o, err := adm.ListOffsetsAfterMilli(ctx, began.Add(time.Duration(at)*time.Second).UnixMilli(), topic)
		if got, _ := o.Lookup(topic, 0); err != nil || got.Offset != want {
			t.Errorf("offset at %d: %+v, %v", at, got, err)
		}
	}
	if o, err := adm.ListMaxTimestampOffsets(ctx, topic); err != nil || o[topic][0].Offset != 99 {
		t.Errorf("max timestamp: %+v, %v", o, err)
	}
	c := franz(t, broker, kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if got := read(t, c, 100); len(got) != 100 {
		t.Errorf("read committed: %d records", len(got))
	}
	if o, err := adm.ListCommittedOffsets(ctx, topic); err != nil || o[topic][0].Offset != 100 {
		t.Errorf("committed end: %+v, %v", o, err)
	}
	to := kadm.Offsets{}
	to.AddOffset(topic, 0, 30, -1)
	deleted, err := adm.DeleteRecords(ctx, to)
	if err != nil || deleted.Error() != nil || deleted[topic][0].LowWatermark != 30 {
		t.Fatalf("delete records: %+v, %v", deleted, err)
	}
	if o, err := adm.ListStartOffsets(ctx, topic); err != nil || o[topic][0].Offset != 30 {
		t.Errorf("start: %+v, %v", o, err)
	}
	if first := read(t, franz(t, broker, kgo.ConsumeTopics(topic)), 70)[0]; first.Offset != 30 {
		t.Errorf("the first record has offset %d", first.Offset)
	}
	to = kadm.Offsets{}
	to.AddOffset(topic, 0, 1000, -1)
	if deleted, err = adm.DeleteRecords(ctx, to); err != nil || !errors.Is(deleted[topic][0].Err, kerr.OffsetOutOfRange) {
		t.Errorf("delete beyond the end: %+v, %v", deleted, err)
	}
}

// Every admin call that the broker advertises, as kadm makes it.
func TestFranzGoAdmin(t *testing.T) {
	broker := Broker(t, fastGroups...)
	adm := kadm.NewClient(franz(t, broker))
	ctx := within(t, 60*time.Second)
	topic, group := createTopic(t, broker, 2, "cleanup.policy", "delete"), Topic("group")
	ok := func(what string, good bool, err error, got ...any) {
		t.Helper()
		if err != nil || !good {
			t.Errorf("%s: %v, %+v", what, err, got)
		}
	}
	if err := franz(t, broker, kgo.DefaultProduceTopic(topic)).ProduceSync(ctx, kgo.StringRecord("a")).FirstErr(); err != nil {
		t.Fatal(err)
	}
	versions, err := adm.ApiVersions(ctx)
	ok("versions", len(versions) == 1, err, versions)
	brokers, err := adm.ListBrokers(ctx)
	ok("brokers", len(brokers) == 1, err, brokers)
	meta, err := adm.BrokerMetadata(ctx)
	ok("metadata", meta.Cluster != "" && meta.Controller == brokers[0].NodeID, err, meta)
	topics, err := adm.ListTopicsWithInternal(ctx)
	ok("topics", topics.Has(topic) && len(topics[topic].Partitions) == 2 && topics[topic].ID != kadm.TopicID{}, err, topics)
	configs, err := adm.DescribeTopicConfigs(ctx, topic)
	ok("topic configs", len(configs) == 1 && len(configs[0].Configs) > 20, err, configs)
	configs, err = adm.DescribeBrokerConfigs(ctx, brokers[0].NodeID)
	ok("broker configs", len(configs) == 1 && len(configs[0].Configs) > 20, err, configs)
	value := "123456"
	altered, err := adm.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "retention.ms", Value: &value}}, topic)
	ok("alter", len(altered) == 1 && altered[0].Err == nil, err, altered)
	altered, err = adm.AlterTopicConfigsState(ctx, []kadm.AlterConfig{{Name: "retention.ms", Value: &value}}, topic)
	ok("alter state", len(altered) == 1 && altered[0].Err == nil, err, altered)
	altered, err = adm.ValidateAlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "retention.mss", Value: &value}}, topic)
	ok("validate", len(altered) == 1 && errors.Is(altered[0].Err, kerr.InvalidConfig), err, altered)
	altered, err = adm.AlterBrokerConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "log.retention.ms", Value: &value}}, brokers[0].NodeID)
	ok("alter broker", len(altered) == 1 && altered[0].Err == nil, err, altered)

	grown, err := adm.UpdatePartitions(ctx, 4, topic)
	ok("partitions", grown.Error() == nil, err, grown)
	dirs, err := adm.DescribeAllLogDirs(ctx, nil)
	ok("log directories", len(dirs) == 1 && dirs[brokers[0].NodeID].Error() == nil, err, dirs)
	producers, err := adm.DescribeProducers(ctx, kadm.TopicsSet{topic: {0: {}, 1: {}}})
	ok("producers", err == nil && len(producers) == 1, err, producers)
	moves, err := adm.ListPartitionReassignments(ctx, nil)
	ok("reassignments", len(moves) == 0, err, moves)
	ends, err := adm.OffsetForLeaderEpoch(ctx, kadm.OffsetForLeaderEpochRequest{topic: {0: 0, 1: 0}})
	ok("leader epochs", len(ends) == 1, err, ends)

	local, err := adm.ListLocalLogStartOffsets(ctx, topic)
	ok("local start", local.Error() == nil, err, local)
	remote, err := adm.ListLatestRemoteOffsets(ctx, topic)
	ok("latest remote", remote.Error() == nil && remote[topic][0].Offset == -1, err, remote)
	valid, err := adm.ValidateCreateTopics(ctx, 1, 1, nil, topic+"v")
	ok("validate a topic", valid.Error() == nil, err, valid)
	resources, err := adm.ListConfigResources(ctx)
	ok("config resources", len(resources.Resources) > 0, err, resources)

	l := newLedger(1)
	offsets := kadm.Offsets{}
	offsets.AddOffset(topic, 0, 0, -1)
	committed, err := adm.CommitOffsets(ctx, group, offsets)
	ok("commit", committed.Ok(), err, committed)
	fetched, err := adm.FetchOffsets(ctx, group)
	ok("fetch offsets", fetched.Ok() && len(fetched) == 1, err, fetched)
	byID, err := adm.FetchOffsetsByID(ctx, group)
	ok("fetch offsets by id", len(byID) == 1, err, byID)
	many := adm.FetchManyOffsets(ctx, group, group+"x")
	ok("fetch of many", len(many) == 2 && many.AllFailed() == false, many.Error(), many)
	leave := member(t, broker, createTopic(t, broker, 1), group+"y", l)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		d, err := adm.DescribeGroups(ctx, group, group+"y")
		if err == nil && d.Error() == nil && d[group+"y"].State == "Stable" {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("describe groups: %+v, %v", d, err)
		}
	}
	groups, err := adm.ListGroups(ctx)
	ok("groups", len(groups) == 2, err, groups)
	groups, err = adm.ListGroups(ctx, "Stable")
	ok("stable groups", len(groups) == 1, err, groups)
	if removed, err := adm.DeleteGroup(ctx, group+"y"); !errors.Is(err, kerr.NonEmptyGroup) {
		t.Errorf("a group with a member was deleted: %+v, %v", removed, err)
	}
	leave()
	coordinators := adm.FindGroupCoordinators(ctx, group, group+"y")
	ok("coordinators", coordinators.Error() == nil && len(coordinators) == 2, nil, coordinators)
	gone, err := adm.DeleteOffsets(ctx, group, kadm.TopicsSet{topic: {0: {}}})
	ok("delete offsets", gone.Error() == nil, err, gone)
	dropped, err := adm.DeleteGroups(ctx, group, group+"y")
	ok("delete groups", len(dropped) == 2, err, dropped)
	deleted, err := adm.DeleteTopics(ctx, topic)
	ok("delete topics", deleted.Error() == nil, err, deleted)

	// What needs what is not there yet is refused, and soon.
	began := time.Now()
	refused := func(what string, err error) {
		t.Helper()
		if err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	_, err = adm.DescribeTransactions(ctx, "t")
	refused("transactions", err)
	_, err = kmsg.NewPtrDescribeACLsRequest().RequestWith(ctx, franz(t, broker))
	refused("ACLs", err)
	_, err = adm.DescribeUserSCRAMs(ctx)
	refused("SCRAM", err)
	_, err = adm.DescribeClientQuotas(ctx, false, nil)
	refused("quotas", err)
	tx := franz(t, broker, kgo.TransactionalID(Topic("tx")), kgo.RetryTimeout(5*time.Second))
	if err := tx.BeginTransaction(); err == nil {
		err = tx.ProduceSync(ctx, &kgo.Record{Topic: createTopic(t, broker, 1), Value: []byte("x")}).FirstErr()
		refused("a transaction", err)
	}
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("refusing took %v", took)
	}
}
