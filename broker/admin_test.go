package broker

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

// pinned is a client that speaks one version of one request.
func pinned(t testing.TB, b *Broker, key, version int16) *kgo.Client {
	t.Helper()
	v := kversion.Stable()
	v.SetMaxKeyVersion(key, version)
	low := &kversion.Versions{}
	low.SetMaxKeyVersion(key, version)
	return client(t, b, kgo.MaxVersions(v), kgo.MinVersions(low))
}

// direct sends a request as it is: the client would take some apart, by what
// it knows of leaders, and answer for the broker.
func direct(c *kgo.Client) *kgo.Broker { return c.SeedBrokers()[0] }

func createRequest(topics ...kmsg.CreateTopicsRequestTopic) *kmsg.CreateTopicsRequest {
	req := kmsg.NewPtrCreateTopicsRequest()
	req.TimeoutMillis, req.Topics = 10000, topics
	return req
}

func newTopicRequest(name string, partitions int32, rf int16, configs ...string) kmsg.CreateTopicsRequestTopic {
	q := kmsg.NewCreateTopicsRequestTopic()
	q.Topic, q.NumPartitions, q.ReplicationFactor = name, partitions, rf
	for i := 0; i < len(configs); i += 2 {
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name, c.Value = configs[i], kmsg.StringPtr(configs[i+1])
		q.Configs = append(q.Configs, c)
	}
	return q
}

func mustCreate(t testing.TB, c *kgo.Client, name string, partitions int32, configs ...string) kmsg.CreateTopicsResponseTopic {
	t.Helper()
	resp, err := createRequest(newTopicRequest(name, partitions, -1, configs...)).RequestWith(testContext(t), direct(c))
	if err != nil {
		t.Fatal(err)
	}
	if r := resp.Topics[0]; r.ErrorCode != 0 {
		t.Fatalf("create %s: %v: %s", name, kerr.ErrorForCode(r.ErrorCode), *r.ErrorMessage)
	}
	return resp.Topics[0]
}

func wantCode(t testing.TB, what string, got int16, want error) {
	t.Helper()
	if err := kerr.ErrorForCode(got); !errors.Is(err, want) {
		t.Errorf("%s: %v; want %v", what, err, want)
	}
}

func TestCreateTopicsAnswersEachTopicByItself(t *testing.T) {
	b, _ := startBroker(t, t.TempDir())
	c := client(t, b)
	mustCreate(t, c, "there.is", 1)
	manual := func(name string, partitions int32, rf int16, replicas ...[]int32) kmsg.CreateTopicsRequestTopic {
		q := newTopicRequest(name, partitions, rf)
		for i, r := range replicas {
			a := kmsg.NewCreateTopicsRequestTopicReplicaAssignment()
			a.Partition, a.Replicas = int32(i), r
			q.ReplicaAssignment = append(q.ReplicaAssignment, a)
		}
		return q
	}
	gap := manual("gap", -1, -1, []int32{1}, []int32{1})
	gap.ReplicaAssignment[1].Partition = 2
	nullConfig := newTopicRequest("null", 1, 1, "retention.ms", "")
	nullConfig.Configs[0].Value = nil
	cases := []struct {
		q    kmsg.CreateTopicsRequestTopic
		want error
		text string
	}{
		{newTopicRequest("plain", 3, 1), nil, ""},
		{newTopicRequest("defaults", -1, -1), nil, ""},
		{newTopicRequest("configured", 1, 1, "cleanup.policy", "compact", "segment.bytes", "65536"), nil, ""},
		{manual("manual", -1, -1, []int32{1}, []int32{1}), nil, ""},
		{newTopicRequest("there.is", 1, 1), kerr.TopicAlreadyExists, "Topic 'there.is' already exists."},
		{newTopicRequest("there_is", 1, 1), kerr.InvalidTopicException, "collides with existing topic: there.is"},
		{newTopicRequest("a.b", 1, 1), nil, ""},
		{newTopicRequest("a_b", 1, 1), kerr.InvalidTopicException, "collides with existing topic: a.b"},
		{newTopicRequest("", 1, 1), kerr.InvalidTopicException, "empty string"},
		{newTopicRequest("..", 1, 1), kerr.InvalidTopicException, "not allowed"},
		{newTopicRequest("white space", 1, 1), kerr.InvalidTopicException, "other than ASCII"},
		{newTopicRequest(strings.Repeat("x", 250), 1, 1), kerr.InvalidTopicException, "longer than"},
		{newTopicRequest("rf3", 1, 3), kerr.InvalidReplicationFactor, "only 1 broker(s)"},
		{newTopicRequest("rf0", 1, 0), kerr.InvalidReplicationFactor, "non-positive"},
		{newTopicRequest("p0", 0, 1), kerr.InvalidPartitions, "non-positive"},
		{newTopicRequest("p-2", -2, 1), kerr.InvalidPartitions, "non-positive"},
		{newTopicRequest("huge", 2_000_000_000, 1), kerr.InvalidPartitions, "limit"},
		{newTopicRequest("typo", 1, 1, "retention.mss", "1"), kerr.InvalidConfig, "did you mean retention.ms?"},
		{newTopicRequest("bad", 1, 1, "retention.ms", "soon"), kerr.InvalidConfig, "not a number of type LONG"},
		{nullConfig, kerr.InvalidConfig, "Null value"},
		{manual("m1", 2, -1, []int32{1}), kerr.InvalidRequest, "numPartitions"},
		{manual("m2", -1, 1, []int32{1}), kerr.InvalidRequest, "replication factor"},
		{manual("m3", -1, -1, []int32{9}), kerr.InvalidReplicaAssignment, "broker 9"},
		{manual("m4", -1, -1, []int32{1, 1}), kerr.InvalidReplicaAssignment, "more than once"},
		{manual("m5", -1, -1, []int32{}), kerr.InvalidReplicaAssignment, "empty"},
		{gap, kerr.InvalidReplicaAssignment, "consecutive"},
		{newTopicRequest(clusterMetadataTopic, 1, 1), kerr.TopicAuthorizationFailed, "prohibited"},
	}
	for _, validateOnly := range []bool{true, false} {
		req := createRequest()
		for _, tc := range cases {
			req.Topics = append(req.Topics, tc.q)
		}
		req.Topics = append(req.Topics, newTopicRequest("twice", 1, 1), newTopicRequest("twice", 1, 1))
		req.ValidateOnly = validateOnly
		resp, err := req.RequestWith(testContext(t), direct(c))
		if err != nil {
			t.Fatal(err)
		}
		if len(resp.Topics) != len(cases)+1 {
			t.Fatalf("%d answers for %d topics", len(resp.Topics), len(cases)+1)
		}
		for i, tc := range cases {
			r := resp.Topics[i]
			wantCode(t, tc.q.Topic, r.ErrorCode, tc.want)
			if r.ErrorMessage != nil != (tc.want != nil) || r.ErrorMessage != nil && !strings.Contains(*r.ErrorMessage, tc.text) {
				t.Errorf("%s: message %v; want %q", tc.q.Topic, r.ErrorMessage, tc.text)
			}
			if created := tc.want == nil && !validateOnly; (r.TopicID != [16]byte{}) != created {
				t.Errorf("%s: topic id %x", tc.q.Topic, r.TopicID)
			}
			if tc.want == nil && (r.NumPartitions < 1 || r.ReplicationFactor != 1 || len(r.Configs) == 0) {
				t.Errorf("%s: %d partitions, %d replicas, %d settings", tc.q.Topic, r.NumPartitions, r.ReplicationFactor, len(r.Configs))
			}
		}
		wantCode(t, "twice", resp.Topics[len(cases)].ErrorCode, kerr.InvalidRequest)
	}
	topics, err := kadm.NewClient(c).ListTopics(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"a.b", "configured", "defaults", "manual", "plain", "there.is"}
	if names := topics.Names(); !slices.Equal(names, want) {
		t.Errorf("topics %v; want %v", names, want)
	}
}

func TestCreateTopicsSpeaksEveryVersion(t *testing.T) {
	b, _ := startBroker(t, t.TempDir())
	for v := int16(2); v <= 7; v++ {
		name := "v" + string(rune('0'+v))
		r := mustCreate(t, pinned(t, b, 19, v), name, 2)
		if (r.TopicID != [16]byte{}) != (v >= 7) || v >= 5 && r.NumPartitions != 2 {
			t.Errorf("version %d: %+v", v, r)
		}
		produceN(t, client(t, b, kgo.DefaultProduceTopic(name)), name, 0, 1)
	}
}

func TestDeletedTopicIsGoneAndItsNameIsFree(t *testing.T) {
	b, _ := startBroker(t, t.TempDir())
	c := client(t, b)
	id := mustCreate(t, c, "d", 1).TopicID
	produceN(t, c, "d", 0, 10)
	byID := kmsg.NewPtrDeleteTopicsRequest()
	byID.TimeoutMillis = 10000
	q := kmsg.NewDeleteTopicsRequestTopic()
	q.TopicID = id
	byID.Topics = append(byID.Topics, q)
	resp, err := byID.RequestWith(testContext(t), direct(c))
	if err != nil {
		t.Fatal(err)
	}
	if r := resp.Topics[0]; r.ErrorCode != 0 || r.Topic == nil || *r.Topic != "d" || r.TopicID != id {
		t.Errorf("%+v", r)
	}
	if again := mustCreate(t, c, "d", 1).TopicID; again == id {
		t.Error("the same topic id again")
	}
	ends, err := kadm.NewClient(c).ListEndOffsets(testContext(t), "d")
	if o, _ := ends.Lookup("d", 0); err != nil || o.Err != nil || o.Offset != 0 {
		t.Errorf("the new topic ends at %+v, %v", o, err)
	}
}

func TestDeleteTopicsRefusals(t *testing.T) {
	b, _ := startBroker(t, t.TempDir())
	c := client(t, b)
	id := mustCreate(t, c, "x", 1).TopicID
	named := func(name string) kmsg.DeleteTopicsRequestTopic {
		q := kmsg.NewDeleteTopicsRequestTopic()
		q.Topic = kmsg.StringPtr(name)
		return q
	}
	numbered := kmsg.NewDeleteTopicsRequestTopic()
	numbered.TopicID = [16]byte{1}
	both := named("both")
	both.TopicID = id
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.TimeoutMillis = 10000
	req.Topics = []kmsg.DeleteTopicsRequestTopic{named("absent"), numbered, both, kmsg.NewDeleteTopicsRequestTopic(), named("x"), named("x")}
	resp, err := req.RequestWith(testContext(t), direct(c))
	if err != nil {
		t.Fatal(err)
	}
	want := []error{kerr.UnknownTopicOrPartition, kerr.UnknownTopicID, kerr.InvalidRequest, kerr.InvalidRequest, kerr.InvalidRequest}
	if len(resp.Topics) != len(want) {
		t.Fatalf("%d answers", len(resp.Topics))
	}
	for i, w := range want {
		wantCode(t, "delete", resp.Topics[i].ErrorCode, w)
	}
	if b.meta.Image().Topic("x") == nil {
		t.Error("a topic named twice was deleted")
	}
	for v := int16(1); v <= 6; v++ {
		name := "v" + string(rune('0'+v))
		mustCreate(t, c, name, 1)
		req := kmsg.NewPtrDeleteTopicsRequest()
		req.TimeoutMillis = 10000
		req.TopicNames, req.Topics = []string{name}, []kmsg.DeleteTopicsRequestTopic{named(name)}
		resp, err := req.RequestWith(testContext(t), direct(pinned(t, b, 20, v)))
		if err != nil || resp.Topics[0].ErrorCode != 0 || b.meta.Image().Topic(name) != nil {
			t.Errorf("version %d: %+v, %v", v, resp, err)
		}
	}
}

func TestCreatePartitions(t *testing.T) {
	b, _ := startBroker(t, t.TempDir())
	c := client(t, b)
	mustCreate(t, c, "p", 2)
	ask := func(topic string, count int32, validateOnly bool, replicas ...[]int32) kmsg.CreatePartitionsResponseTopic {
		t.Helper()
		req := kmsg.NewPtrCreatePartitionsRequest()
		req.TimeoutMillis, req.ValidateOnly = 10000, validateOnly
		q := kmsg.NewCreatePartitionsRequestTopic()
		q.Topic, q.Count = topic, count
		for _, r := range replicas {
			a := kmsg.NewCreatePartitionsRequestTopicAssignment()
			a.Replicas = r
			q.Assignment = append(q.Assignment, a)
		}
		req.Topics = append(req.Topics, q)
		resp, err := req.RequestWith(testContext(t), direct(c))
		if err != nil {
			t.Fatal(err)
		}
		return resp.Topics[0]
	}
	wantCode(t, "same", ask("p", 2, false).ErrorCode, kerr.InvalidPartitions)
	wantCode(t, "less", ask("p", 1, false).ErrorCode, kerr.InvalidPartitions)
	wantCode(t, "absent", ask("q", 1, false).ErrorCode, kerr.UnknownTopicOrPartition)
	wantCode(t, "too few assignments", ask("p", 4, false, []int32{1}).ErrorCode, kerr.InvalidReplicaAssignment)
	wantCode(t, "unknown broker", ask("p", 3, false, []int32{7}).ErrorCode, kerr.InvalidReplicaAssignment)
	wantCode(t, "validate only", ask("p", 4, true).ErrorCode, nil)
	if n := len(b.meta.Image().Topic("p").Partitions); n != 2 {
		t.Errorf("validation made %d partitions", n)
	}
	wantCode(t, "more", ask("p", 4, false).ErrorCode, nil)
	wantCode(t, "more, by hand", ask("p", 5, false, []int32{1}).ErrorCode, nil)
	p := client(t, b, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err := p.ProduceSync(testContext(t), &kgo.Record{Topic: "p", Partition: 4, Value: []byte("v")}).FirstErr(); err != nil {
		t.Error(err)
	}
}

func TestDeleteRecordsMovesTheLogStart(t *testing.T) {
	dir := t.TempDir()
	b, stop := startBroker(t, dir)
	c := client(t, b)
	mustCreate(t, c, "r", 1)
	mustCreate(t, c, "compacted", 1, "cleanup.policy", "compact")
	produceN(t, c, "r", 0, 100)
	ask := func(topic string, partition int32, offset int64) (int64, int16) {
		t.Helper()
		req := kmsg.NewPtrDeleteRecordsRequest()
		req.TimeoutMillis = 10000
		q, p := kmsg.NewDeleteRecordsRequestTopic(), kmsg.NewDeleteRecordsRequestTopicPartition()
		p.Partition, p.Offset = partition, offset
		q.Topic, q.Partitions = topic, append(q.Partitions, p)
		req.Topics = append(req.Topics, q)
		resp, err := req.RequestWith(testContext(t), direct(c))
		if err != nil {
			t.Fatal(err)
		}
		r := resp.Topics[0].Partitions[0]
		return r.LowWatermark, r.ErrorCode
	}
	for _, tc := range []struct {
		topic     string
		partition int32
		offset    int64
		low       int64
		want      error
	}{
		{"r", 0, 40, 40, nil},
		{"r", 0, 10, 40, nil}, // behind the start already
		{"r", 0, 101, -1, kerr.OffsetOutOfRange},
		{"r", 0, -2, -1, kerr.OffsetOutOfRange},
		{"r", 3, 0, -1, kerr.UnknownTopicOrPartition},
		{"none", 0, 0, -1, kerr.UnknownTopicOrPartition},
		{"compacted", 0, 0, -1, kerr.PolicyViolation},
		{offsetsTopic, 0, 0, -1, kerr.InvalidTopicException},
	} {
		low, code := ask(tc.topic, tc.partition, tc.offset)
		wantCode(t, tc.topic, code, tc.want)
		if low != tc.low {
			t.Errorf("%s to %d: low watermark %d, not %d", tc.topic, tc.offset, low, tc.low)
		}
	}
	c.Close()
	stop()
	b, _ = startBroker(t, dir)
	c = client(t, b)
	starts, err := kadm.NewClient(c).ListStartOffsets(testContext(t), "r")
	if o, _ := starts.Lookup("r", 0); err != nil || o.Offset != 40 {
		t.Errorf("after a restart the log starts at %d, %v", o.Offset, err)
	}
	if low, _ := ask("r", 0, -1); low != 100 {
		t.Errorf("to the high watermark: %d", low)
	}
}

func describe(t testing.TB, c *kgo.Client, kind kmsg.ConfigResourceType, name string, keys ...string) kmsg.DescribeConfigsResponseResource {
	t.Helper()
	req := kmsg.NewPtrDescribeConfigsRequest()
	req.IncludeSynonyms, req.IncludeDocumentation = true, true
	q := kmsg.NewDescribeConfigsRequestResource()
	q.ResourceType, q.ResourceName, q.ConfigNames = kind, name, keys
	req.Resources = append(req.Resources, q)
	resp, err := req.RequestWith(testContext(t), direct(c))
	if err != nil {
		t.Fatal(err)
	}
	return resp.Resources[0]
}

func alter(t testing.TB, c *kgo.Client, kind kmsg.ConfigResourceType, name, key string, op kmsg.IncrementalAlterConfigOp, value *string) (int16, string) {
	t.Helper()
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	q, e := kmsg.NewIncrementalAlterConfigsRequestResource(), kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
	e.Name, e.Op, e.Value = key, op, value
	q.ResourceType, q.ResourceName, q.Configs = kind, name, append(q.Configs, e)
	req.Resources = append(req.Resources, q)
	resp, err := req.RequestWith(testContext(t), direct(c))
	if err != nil {
		t.Fatal(err)
	}
	r := resp.Resources[0]
	if r.ErrorMessage == nil {
		return r.ErrorCode, ""
	}
	return r.ErrorCode, *r.ErrorMessage
}

const (
	topicResource  = kmsg.ConfigResourceTypeTopic
	brokerResource = kmsg.ConfigResourceTypeBroker
	opSet          = kmsg.IncrementalAlterConfigOpSet
	opDelete       = kmsg.IncrementalAlterConfigOpDelete
	opAppend       = kmsg.IncrementalAlterConfigOpAppend
	opSubtract     = kmsg.IncrementalAlterConfigOpSubtract
)

func TestAlteredTopicConfigsAreDescribedAndInForce(t *testing.T) {
	dir := t.TempDir()
	b, stop := startBroker(t, dir)
	c := client(t, b)
	mustCreate(t, c, "c", 1)
	value := kmsg.StringPtr
	for _, tc := range []struct {
		key   string
		op    kmsg.IncrementalAlterConfigOp
		value *string
		want  error
	}{
		{"max.message.bytes", opSet, value("1000"), nil},
		{"cleanup.policy", opAppend, value("compact"), nil},
		{"retention.ms", opSet, value("-5"), kerr.InvalidConfig},
		{"retention.mss", opSet, value("5"), kerr.InvalidConfig},
		{"retention.ms", opSet, nil, kerr.InvalidRequest},
		{"retention.ms", opAppend, value("5"), kerr.InvalidConfig},
		{"retention.ms", 77, value("5"), kerr.InvalidRequest},
	} {
		code, text := alter(t, c, topicResource, "c", tc.key, tc.op, tc.value)
		wantCode(t, tc.key+" "+text, code, tc.want)
	}
	code, _ := alter(t, c, topicResource, "none", "retention.ms", opSet, value("5"))
	wantCode(t, "unknown topic", code, kerr.UnknownTopicOrPartition)
	r := describe(t, c, topicResource, "c", "max.message.bytes", "cleanup.policy")
	if len(r.Configs) != 2 || *r.Configs[0].Value != "delete,compact" || *r.Configs[1].Value != "1000" ||
		r.Configs[1].Source != kmsg.ConfigSourceDynamicTopicConfig || len(r.Configs[1].ConfigSynonyms) != 2 ||
		r.Configs[1].ConfigType != kmsg.ConfigTypeInt || r.Configs[1].Documentation == nil {
		t.Errorf("%+v", r.Configs)
	}
	p := client(t, b, kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err := p.ProduceSync(testContext(t), &kgo.Record{Topic: "c", Key: []byte("k"), Value: make([]byte, 2000)}).FirstErr(); !errors.Is(err, kerr.MessageTooLarge) {
		t.Errorf("a record above max.message.bytes: %v", err)
	}
	if code, text := alter(t, c, topicResource, "c", "cleanup.policy", opSubtract, value("delete")); code != 0 {
		t.Errorf("subtract: %s", text)
	}
	c.Close()
	p.Close()
	stop()
	b, _ = startBroker(t, dir)
	c = client(t, b)
	r = describe(t, c, topicResource, "c", "cleanup.policy")
	if *r.Configs[0].Value != "compact" {
		t.Errorf("after a restart: %s", *r.Configs[0].Value)
	}
	if code, text := alter(t, c, topicResource, "c", "cleanup.policy", opDelete, nil); code != 0 {
		t.Errorf("delete: %s", text)
	}
	if r = describe(t, c, topicResource, "c", "cleanup.policy"); *r.Configs[0].Value != "delete" || r.Configs[0].Source != kmsg.ConfigSourceDefaultConfig {
		t.Errorf("after the deletion: %+v", r.Configs[0])
	}
}

func TestAlterConfigsReplacesEverything(t *testing.T) {
	b, _ := startBroker(t, t.TempDir())
	c := client(t, b)
	mustCreate(t, c, "c", 1, "retention.ms", "5", "segment.ms", "6")
	for _, validateOnly := range []bool{true, false} {
		req := kmsg.NewPtrAlterConfigsRequest()
		req.ValidateOnly = validateOnly
		q, e := kmsg.NewAlterConfigsRequestResource(), kmsg.NewAlterConfigsRequestResourceConfig()
		e.Name, e.Value = "retention.ms", kmsg.StringPtr("7")
		q.ResourceType, q.ResourceName, q.Configs = topicResource, "c", append(q.Configs, e)
		req.Resources = append(req.Resources, q)
		resp, err := req.RequestWith(testContext(t), direct(c))
		if err != nil || resp.Resources[0].ErrorCode != 0 {
			t.Fatalf("%+v, %v", resp, err)
		}
		got := b.meta.Image().TopicConfig("c")
		if validateOnly && (len(got) != 2 || got["retention.ms"] != "5") || !validateOnly && (len(got) != 1 || got["retention.ms"] != "7") {
			t.Errorf("validate only %v: %v", validateOnly, got)
		}
	}
}

func TestBrokerConfigsChangeTopicsWithoutTheirOwn(t *testing.T) {
	b, _ := startBroker(t, t.TempDir())
	c := client(t, b)
	mustCreate(t, c, "c", 1)
	if code, text := alter(t, c, brokerResource, "", "log.retention.ms", opSet, kmsg.StringPtr("1000")); code != 0 {
		t.Fatal(text)
	}
	if code, text := alter(t, c, brokerResource, "1", "log.retention.ms", opSet, kmsg.StringPtr("2000")); code != 0 {
		t.Fatal(text)
	}
	r := describe(t, c, topicResource, "c", "retention.ms")
	if *r.Configs[0].Value != "2000" || r.Configs[0].Source != kmsg.ConfigSourceDynamicBrokerConfig {
		t.Errorf("%+v", r.Configs[0])
	}
	if got := b.partitions.Get("c", 0).Log().Config().RetentionMillis; got != 2000 {
		t.Errorf("the log has retention %d", got)
	}
	if r := describe(t, c, brokerResource, ""); len(r.Configs) != 1 || *r.Configs[0].Value != "1000" {
		t.Errorf("%+v", r.Configs)
	}
	own := describe(t, c, brokerResource, "1")
	if len(own.Configs) < 60 {
		t.Errorf("%d settings", len(own.Configs))
	}
	for _, tc := range []struct {
		name, key string
		want      error
	}{
		{"1", "listeners", kerr.InvalidConfig},
		{"1", "ssl.keystore.location", kerr.InvalidConfig},
		{"2", "log.retention.ms", kerr.InvalidRequest},
		{"x", "log.retention.ms", kerr.InvalidRequest},
	} {
		code, text := alter(t, c, brokerResource, tc.name, tc.key, opSet, kmsg.StringPtr("1"))
		wantCode(t, tc.name+" "+tc.key+": "+text, code, tc.want)
	}
	code, _ := alter(t, c, kmsg.ConfigResourceTypeBrokerLogger, "1", "root", opSet, kmsg.StringPtr("DEBUG"))
	wantCode(t, "loggers", code, kerr.InvalidRequest)
	wantCode(t, "describe another broker", describe(t, c, brokerResource, "9").ErrorCode, kerr.InvalidRequest)
	wantCode(t, "describe no topic", describe(t, c, topicResource, "none").ErrorCode, kerr.UnknownTopicOrPartition)
	wantCode(t, "describe a bad name", describe(t, c, topicResource, "a b").ErrorCode, kerr.InvalidTopicException)
}

func TestConfigVersions(t *testing.T) {
	b, _ := startBroker(t, t.TempDir())
	mustCreate(t, client(t, b), "c", 1)
	for v := int16(1); v <= 4; v++ {
		r := describe(t, pinned(t, b, 32, v), topicResource, "c")
		if r.ErrorCode != 0 || len(r.Configs) < 30 || (r.Configs[0].Documentation != nil) != (v >= 3) {
			t.Errorf("DescribeConfigs %d: %d, %d settings", v, r.ErrorCode, len(r.Configs))
		}
	}
	for v := int16(0); v <= 1; v++ {
		if code, text := alter(t, pinned(t, b, 44, v), topicResource, "c", "retention.ms", opSet, kmsg.StringPtr("9")); code != 0 {
			t.Errorf("IncrementalAlterConfigs %d: %s", v, text)
		}
	}
	for v := int16(0); v <= 2; v++ {
		req := kmsg.NewPtrAlterConfigsRequest()
		q := kmsg.NewAlterConfigsRequestResource()
		q.ResourceType, q.ResourceName = topicResource, "c"
		req.Resources = append(req.Resources, q, q)
		resp, err := req.RequestWith(testContext(t), direct(pinned(t, b, 33, v)))
		if err != nil || len(resp.Resources) != 2 {
			t.Fatalf("AlterConfigs %d: %v", v, err)
		}
		wantCode(t, "a resource twice", resp.Resources[0].ErrorCode, kerr.InvalidRequest)
	}
}

func TestDescribeCluster(t *testing.T) {
	b, _ := startBroker(t, t.TempDir())
	for v := int16(0); v <= 2; v++ {
		req := kmsg.NewPtrDescribeClusterRequest()
		req.IncludeClusterAuthorizedOperations = true
		resp, err := req.RequestWith(testContext(t), direct(pinned(t, b, 60, v)))
		if err != nil {
			t.Fatal(err)
		}
		if resp.ErrorCode != 0 || resp.ClusterID != b.meta.Image().ClusterID || resp.ControllerID != 1 || len(resp.Brokers) != 1 ||
			resp.Brokers[0].NodeID != 1 || resp.ClusterAuthorizedOperations != clusterAuthorizedOperations {
			t.Errorf("version %d: %+v", v, resp)
		}
	}
	req := kmsg.NewPtrDescribeClusterRequest()
	req.EndpointType = endpointControllers
	resp, err := req.RequestWith(testContext(t), direct(client(t, b)))
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, "controllers", resp.ErrorCode, kerr.MismatchedEndpointType)
}

func TestDescribeTopicPartitionsPages(t *testing.T) {
	b, _ := startBroker(t, t.TempDir())
	c := client(t, b)
	for name, n := range map[string]int32{"a": 3, "b": 1, "c": 4} {
		mustCreate(t, c, name, n)
	}
	type page struct {
		topic     string
		partition int32
	}
	for limit := int32(1); limit <= 9; limit++ {
		var got []page
		req := kmsg.NewPtrDescribeTopicPartitionsRequest()
		req.ResponsePartitionLimit = limit
		for range 20 {
			resp, err := req.RequestWith(testContext(t), direct(c))
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for _, r := range resp.Topics {
				wantCode(t, *r.Topic, r.ErrorCode, nil)
				for _, p := range r.Partitions {
					got = append(got, page{*r.Topic, p.Partition})
					n++
					if p.LeaderID != 1 || len(p.Replicas) != 1 || len(p.ISR) != 1 || p.EligibleLeaderReplicas == nil {
						t.Errorf("%+v", p)
					}
				}
			}
			if n > int(limit) {
				t.Errorf("%d partitions, limit %d", n, limit)
			}
			if resp.NextCursor == nil {
				break
			}
			cur := kmsg.NewDescribeTopicPartitionsRequestCursor()
			cur.Topic, cur.Partition = resp.NextCursor.Topic, resp.NextCursor.Partition
			req.Cursor = &cur
		}
		want := []page{{"a", 0}, {"a", 1}, {"a", 2}, {"b", 0}, {"c", 0}, {"c", 1}, {"c", 2}, {"c", 3}}
		if !slices.Equal(got, want) {
			t.Errorf("limit %d: %v", limit, got)
		}
	}
	req := kmsg.NewPtrDescribeTopicPartitionsRequest()
	for _, name := range []string{"none", "a b", "b", "b"} {
		q := kmsg.NewDescribeTopicPartitionsRequestTopic()
		q.Topic = name
		req.Topics = append(req.Topics, q)
	}
	resp, err := req.RequestWith(testContext(t), direct(c))
	if err != nil || len(resp.Topics) != 3 {
		t.Fatalf("%+v, %v", resp, err)
	}
	wantCode(t, "a bad name", resp.Topics[0].ErrorCode, kerr.InvalidTopicException)
	wantCode(t, "b", resp.Topics[1].ErrorCode, nil)
	wantCode(t, "unknown", resp.Topics[2].ErrorCode, kerr.UnknownTopicOrPartition)
}

func TestDescribeLogDirsAndProducers(t *testing.T) {
	b, _ := startBroker(t, t.TempDir())
	c := client(t, b)
	mustCreate(t, c, "c", 2)
	produceN(t, client(t, b, kgo.DefaultProduceTopic("c")), "c", 0, 100)
	for v := int16(1); v <= 4; v++ {
		resp, err := kmsg.NewPtrDescribeLogDirsRequest().RequestWith(testContext(t), direct(pinned(t, b, 35, v)))
		if err != nil || len(resp.Dirs) != 1 {
			t.Fatalf("version %d: %+v, %v", v, resp, err)
		}
		d := resp.Dirs[0]
		var size int64
		for _, r := range d.Topics {
			for _, p := range r.Partitions {
				size += p.Size
			}
		}
		if d.ErrorCode != 0 || size == 0 || v >= 4 && (d.TotalBytes <= 0 || d.UsableBytes <= 0) || !strings.HasPrefix(d.Dir, "/") {
			t.Errorf("version %d: %d bytes, %+v", v, size, d)
		}
	}
	one := kmsg.NewPtrDescribeLogDirsRequest()
	q := kmsg.NewDescribeLogDirsRequestTopic()
	q.Topic, q.Partitions = "c", []int32{1, 9}
	one.Topics = append(one.Topics, q)
	resp, err := one.RequestWith(testContext(t), direct(c))
	if err != nil || len(resp.Dirs[0].Topics) != 1 || len(resp.Dirs[0].Topics[0].Partitions) != 1 {
		t.Errorf("one partition: %+v, %v", resp, err)
	}

	req := kmsg.NewPtrDescribeProducersRequest()
	pq := kmsg.NewDescribeProducersRequestTopic()
	pq.Topic, pq.Partitions = "c", []int32{0, 1, 2}
	req.Topics = append(req.Topics, pq)
	producers, err := req.RequestWith(testContext(t), direct(c))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, p := range producers.Topics[0].Partitions[:2] {
		wantCode(t, "producers", p.ErrorCode, nil)
		for _, a := range p.ActiveProducers {
			if a.LastSequence >= 0 && a.CurrentTxnStartOffset == -1 {
				found++
			}
		}
	}
	if found == 0 {
		t.Error("no producer is remembered")
	}
	wantCode(t, "no partition", producers.Topics[0].Partitions[2].ErrorCode, kerr.UnknownTopicOrPartition)
}

func TestListConfigResources(t *testing.T) {
	b, _ := startBroker(t, t.TempDir())
	c := client(t, b)
	mustCreate(t, c, "c", 1)
	ask := func(types ...int8) []string {
		t.Helper()
		req := kmsg.NewPtrListConfigResourcesRequest()
		req.ResourceTypes = types
		resp, err := req.RequestWith(testContext(t), direct(c))
		if err != nil || resp.ErrorCode != 0 {
			t.Fatalf("%+v, %v", resp, err)
		}
		var names []string
		for _, r := range resp.ConfigResources {
			names = append(names, r.Name)
		}
		return names
	}
	if got := ask(); !slices.Equal(got, []string{"c", "1"}) {
		t.Errorf("all: %v", got)
	}
	if got := ask(int8(topicResource)); !slices.Equal(got, []string{"c"}) {
		t.Errorf("topics: %v", got)
	}
	if got := ask(int8(kmsg.ConfigResourceTypeClientMetrics)); len(got) != 0 {
		t.Errorf("client metrics: %v", got)
	}
	req := kmsg.NewPtrListConfigResourcesRequest()
	req.ResourceTypes = []int8{99}
	resp, err := req.RequestWith(testContext(t), direct(c))
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, "unknown type", resp.ErrorCode, kerr.UnsupportedVersion)
	old, err := kmsg.NewPtrListConfigResourcesRequest().RequestWith(testContext(t), direct(pinned(t, b, 74, 0)))
	if err != nil || old.ErrorCode != 0 || len(old.ConfigResources) != 0 {
		t.Errorf("version 0: %+v, %v", old, err)
	}
}

func TestNoReassignmentIsUnderWay(t *testing.T) {
	b, _ := startBroker(t, t.TempDir())
	resp, err := kmsg.NewPtrListPartitionReassignmentsRequest().RequestWith(testContext(t), direct(client(t, b)))
	if err != nil || resp.ErrorCode != 0 || len(resp.Topics) != 0 {
		t.Errorf("%+v, %v", resp, err)
	}
}

func TestAdvertisedNumbersOfReplicasAndPartitionsHold(t *testing.T) {
	b, _ := startBroker(t, t.TempDir())
	c := client(t, b)
	const n = 300
	req := createRequest()
	for i := range n {
		req.Topics = append(req.Topics, newTopicRequest("many"+strings.Repeat("x", i%7)+"-"+string(rune('a'+i%26))+strings.Repeat("y", i/26), 2, 1))
	}
	resp, err := req.RequestWith(testContext(t), direct(c))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range resp.Topics {
		wantCode(t, r.Topic, r.ErrorCode, nil)
	}
	if got := b.meta.Image().TopicCount(); got != n {
		t.Errorf("%d topics, not %d", got, n)
	}
}
