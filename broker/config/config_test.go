package config

import (
	"errors"
	"strings"
	"testing"
)

func mustNew(t *testing.T, values map[string]string) *Broker {
	t.Helper()
	b, err := New(values)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestEveryDefaultIsValidAndDocumented(t *testing.T) {
	all := append([]*Setting(nil), allBroker...)
	for i := range topicSettings {
		all = append(all, &topicSettings[i])
		if i > 0 && topicSettings[i-1].Name >= topicSettings[i].Name {
			t.Errorf("%s: the table is not sorted", topicSettings[i].Name)
		}
		for _, syn := range topicSettings[i].Synonyms {
			if brokerByName[syn.Name] == nil {
				t.Errorf("%s: its synonym %s is no broker setting", topicSettings[i].Name, syn.Name)
			}
		}
		if topicSettings[i].Unset {
			t.Errorf("%s: a topic setting needs a default", topicSettings[i].Name)
		}
	}
	for _, s := range all {
		if s.Doc == "" || !strings.HasSuffix(s.Doc, ".") {
			t.Errorf("%s: documentation %q is no sentence", s.Name, s.Doc)
		}
		if s.Unset {
			continue
		}
		v, err := s.parse(s.Default)
		if err != nil {
			t.Errorf("%s: %v", s.Name, err)
		} else if v.text != s.Default {
			t.Errorf("%s: default %q is not in its canonical form %q", s.Name, s.Default, v.text)
		}
	}
	mustNew(t, nil)
}

func TestNoSettingIsBothHonouredAndNot(t *testing.T) {
	seen := map[string]bool{}
	for _, u := range unsupportedSettings {
		if seen[u.name] {
			t.Errorf("%s is in the table twice", u.name)
		}
		seen[u.name] = true
		if brokerByName[u.name] != nil {
			t.Errorf("%s is honoured too", u.name)
		}
		if u.why == "" {
			t.Errorf("%s: no reason", u.name)
		}
	}
}

func TestValuesFollowTheirTypeAndRule(t *testing.T) {
	for _, c := range []struct{ name, value, canonical, reason string }{
		{RetentionMs, " 1000 ", "1000", ""},
		{RetentionMs, "-1", "-1", ""},
		{RetentionMs, "-2", "", "value must be at least -1"},
		{RetentionMs, "1.5", "", "not a number of type LONG"},
		{RetentionMs, "", "", "not a number of type LONG"},
		{RetentionMs, "9223372036854775808", "", "not a number of type LONG"},
		{SegmentBytes, "2147483648", "", "not a number of type INT"},
		{SegmentBytes, "13", "", "value must be at least 14"},
		{CleanupPolicy, "compact, delete", "compact,delete", ""},
		{CleanupPolicy, "", "", ""},
		{CleanupPolicy, "compact,compact", "", "given twice"},
		{CleanupPolicy, "shred", "", "string must be one of: compact, delete"},
		{MinCleanableDirtyRatio, "0.25", "0.25", ""},
		{MinCleanableDirtyRatio, "1.1", "", "between 0 and 1"},
		{MinCleanableDirtyRatio, "NaN", "", "not a number of type DOUBLE"},
		{MessageTimestampType, "LogAppendTime", "LogAppendTime", ""},
		{MessageTimestampType, "logappendtime", "", "string must be one of"},
		{"preallocate", "TRUE", "true", ""},
		{"preallocate", "yes", "", "either true or false"},
		{CompressionType, "producer", "producer", ""},
		{CompressionType, "lz4", "", `only "producer"`},
		{"remote.storage.enable", "true", "", "tiered storage"},
		{"compression.gzip.level", "-1", "-1", ""},
		{"compression.gzip.level", "0", "", "between 1 and 9"},
		{"leader.replication.throttled.replicas", "0:1,1:2", "0:1,1:2", ""},
		{"leader.replication.throttled.replicas", "*", "*", ""},
		{"leader.replication.throttled.replicas", "a:b", "", "partition:broker"},
	} {
		v, err := topicByName[c.name].parse(c.value)
		switch {
		case c.reason == "" && (err != nil || v.text != c.canonical):
			t.Errorf("%s=%q: %q, %v; want %q", c.name, c.value, v.text, err, c.canonical)
		case c.reason != "" && err == nil:
			t.Errorf("%s=%q was taken", c.name, c.value)
		case c.reason != "" && (!strings.Contains(err.Error(), c.reason) || !strings.Contains(err.Error(), c.name) || !errors.Is(err, ErrInvalid)):
			t.Errorf("%s=%q: %v; want the name and %q", c.name, c.value, err, c.reason)
		}
	}
}

func TestTopicValidationExplainsMistakes(t *testing.T) {
	b := mustNew(t, nil)
	for _, c := range []struct {
		overrides map[string]string
		want      string
	}{
		{map[string]string{"retention.msec": "1"}, "did you mean retention.ms?"},
		{map[string]string{"cleanup-policy": "compact"}, "did you mean cleanup.policy?"},
		{map[string]string{"qqq": "1"}, "Unknown topic config name: qqq"},
		{map[string]string{MinCompactionLagMs: "10", MaxCompactionLagMs: "9"}, "min.compaction.lag.ms (10) > max.compaction.lag.ms (9)"},
		{map[string]string{MaxMessageBytes: "16777216"}, "millrace.commit.max.bytes"},
	} {
		err := b.ValidateTopic(c.overrides)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v; want %q", c.overrides, err, c.want)
		}
	}
	if err := b.ValidateTopic(map[string]string{CleanupPolicy: "compact", RetentionMs: "-1"}); err != nil {
		t.Error(err)
	}
}

type dynamic struct{ own, all map[string]string }

func (d dynamic) BrokerConfig(id int32) map[string]string {
	if id == 7 {
		return d.own
	}
	return nil
}
func (d dynamic) ClusterConfig() map[string]string { return d.all }

func TestTopicTakesTheStrongestValue(t *testing.T) {
	b := mustNew(t, map[string]string{"node.id": "7", "log.retention.hours": "2"})
	if got := b.Topic(nil).RetentionMs; got != 2*hourMillis {
		t.Errorf("file: %d", got)
	}
	b.SetDynamic(dynamic{all: map[string]string{"log.retention.minutes": "3"}})
	if got := b.Topic(nil).RetentionMs; got != 3*minuteMillis {
		t.Errorf("dynamic default: %d", got)
	}
	b.SetDynamic(dynamic{
		all: map[string]string{"log.retention.minutes": "3", "log.retention.ms": "5"},
		own: map[string]string{"log.retention.ms": "4"},
	})
	if got := b.Topic(nil).RetentionMs; got != 4 {
		t.Errorf("dynamic broker: %d", got)
	}
	over := map[string]string{RetentionMs: "1"}
	if got := b.Topic(over).RetentionMs; got != 1 {
		t.Errorf("topic: %d", got)
	}
	e := b.DescribeTopic(over, []string{RetentionMs})[0]
	var chain []string
	for _, s := range e.Synonyms {
		chain = append(chain, s.Name+"="+*s.Value+" ("+s.Source.String()+")")
	}
	want := []string{
		"retention.ms=1 (topic)", "log.retention.ms=4 (dynamic broker)", "log.retention.ms=5 (dynamic default)",
		"log.retention.minutes=3 (dynamic default)", "log.retention.hours=2 (static)", "log.retention.hours=168 (default)",
	}
	if strings.Join(chain, "; ") != strings.Join(want, "; ") || e.Source != DynamicTopic || *e.Value != "1" {
		t.Errorf("described as %v, %v, %s", chain, e.Source, *e.Value)
	}
	b.SetDynamic(dynamic{})
	if got := b.Topic(nil).RetentionMs; got != 2*hourMillis {
		t.Errorf("removed: %d", got)
	}
}

func TestDescribedValuesAreThoseInForce(t *testing.T) {
	b := mustNew(t, map[string]string{"log.segment.bytes": "1000000"})
	got := map[string]Entry{}
	for _, e := range b.DescribeTopic(nil, nil) {
		got[e.Name] = e
		if len(e.Synonyms) == 0 {
			t.Errorf("%s has no synonyms", e.Name)
		}
	}
	if len(got) != len(topicSettings) {
		t.Errorf("%d of %d", len(got), len(topicSettings))
	}
	if e := got[SegmentBytes]; *e.Value != "1000000" || e.Source != StaticBroker {
		t.Errorf("segment.bytes: %s, %v", *e.Value, e.Source)
	}
	if e := got[RetentionMs]; *e.Value != week || e.Source != Default {
		t.Errorf("retention.ms: %s, %v", *e.Value, e.Source)
	}
	brokers := b.DescribeBroker(nil)
	if len(brokers) != len(allBroker) {
		t.Errorf("%d of %d", len(brokers), len(allBroker))
	}
	if e := b.DescribeBroker([]string{"log.retention.ms"})[0]; e.Value != nil || e.Source != Default || len(e.Synonyms) != 1 {
		t.Errorf("log.retention.ms: %+v", e)
	}
	if e := b.DescribeBroker([]string{"num.network.threads"})[0]; !e.ReadOnly {
		t.Error("num.network.threads is not shown as read-only")
	}
	if n := len(b.DescribeTopic(nil, []string{})); n != 0 {
		t.Errorf("no names asked for, %d shown", n)
	}
}

func TestDynamicValuesThatCannotBeAreKeptOut(t *testing.T) {
	b := mustNew(t, nil)
	b.SetDynamic(dynamic{all: map[string]string{"listeners": "PLAINTEXT://:1", "log.segment.bytes": "no", "made.up": "1", "num.partitions": "3"}})
	if b.NumPartitions() != 3 || b.Topic(nil).SegmentBytes != 1<<30 {
		t.Error("a bad neighbour changed good values")
	}
	if n := len(b.Rejected()); n != 3 {
		t.Errorf("%d rejected: %v", n, b.Rejected())
	}
}

func TestBrokerAlterationsMustBeDynamic(t *testing.T) {
	b := mustNew(t, nil)
	for name, want := range map[string]string{
		"listeners":         "read when the broker starts",
		"ssl.keystore.type": "does not honour",
		"retention.ms":      "log.retention.ms",
		"log.retention.mss": "did you mean log.retention.ms?",
		"millrace.wal.byte": "did you mean millrace.wal.bytes?",
	} {
		if err := b.ValidateBroker(map[string]string{name: "1"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", name, err, want)
		}
	}
	if err := b.ValidateBroker(map[string]string{"log.cleaner.min.compaction.lag.ms": "5", "log.cleaner.max.compaction.lag.ms": "4"}); err == nil {
		t.Error("defaults that cannot be together were taken")
	}
	if err := b.ValidateBroker(map[string]string{"log.retention.ms": "4", "num.partitions": "9"}); err != nil {
		t.Error(err)
	}
}

func str(s string) *string { return &s }

func TestIncrementalAlterations(t *testing.T) {
	b := mustNew(t, nil)
	for _, c := range []struct {
		name    string
		current map[string]string
		ops     []Alteration
		want    map[string]string
		err     string
	}{
		{"set", nil, []Alteration{{RetentionMs, OpSet, str(" 5 ")}}, map[string]string{RetentionMs: "5"}, ""},
		{"delete", map[string]string{RetentionMs: "5", SegmentMs: "6"}, []Alteration{{RetentionMs, OpDelete, nil}}, map[string]string{SegmentMs: "6"}, ""},
		{"delete what is not set", nil, []Alteration{{RetentionMs, OpDelete, nil}}, map[string]string{}, ""},
		{"delete a leftover", map[string]string{"old.name": "5"}, []Alteration{{"old.name", OpDelete, nil}}, map[string]string{}, ""},
		{"beside a leftover", map[string]string{"old.name": "5", SegmentMs: "none"}, []Alteration{{RetentionMs, OpSet, str("1")}}, map[string]string{"old.name": "5", SegmentMs: "none", RetentionMs: "1"}, ""},
		{"append to the default", nil, []Alteration{{CleanupPolicy, OpAppend, str("compact")}}, map[string]string{CleanupPolicy: "delete,compact"}, ""},
		{"append what is there", map[string]string{CleanupPolicy: "compact"}, []Alteration{{CleanupPolicy, OpAppend, str("compact")}}, map[string]string{CleanupPolicy: "compact"}, ""},
		{"subtract", map[string]string{CleanupPolicy: "compact,delete"}, []Alteration{{CleanupPolicy, OpSubtract, str("delete")}}, map[string]string{CleanupPolicy: "compact"}, ""},
		{"append to a number", nil, []Alteration{{RetentionMs, OpAppend, str("1")}}, nil, "Can't APPEND config retention.ms"},
		{"null", nil, []Alteration{{RetentionMs, OpSet, nil}}, nil, "Null value"},
		{"twice", nil, []Alteration{{RetentionMs, OpSet, str("1")}, {RetentionMs, OpDelete, nil}}, nil, "duplicate"},
		{"unknown", nil, []Alteration{{"retention.mss", OpSet, str("1")}}, nil, "did you mean retention.ms"},
		{"unknown operation", nil, []Alteration{{RetentionMs, 9, str("1")}}, nil, "Unknown config operation 9"},
		{"no name", nil, []Alteration{{"", OpSet, str("1")}}, nil, "without a name"},
		{"outcome does not fit", map[string]string{MaxCompactionLagMs: "5"}, []Alteration{{MinCompactionLagMs, OpSet, str("6")}}, nil, "conflict"},
	} {
		got, err := b.AlterTopic(c.current, c.ops)
		switch {
		case c.err != "":
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v; want %q", c.name, err, c.err)
			}
		case err != nil:
			t.Errorf("%s: %v", c.name, err)
		default:
			if len(got.Values) != len(c.want) {
				t.Errorf("%s: %v; want %v", c.name, got.Values, c.want)
			}
			for k, v := range c.want {
				if got.Values[k] != v {
					t.Errorf("%s: %s=%q; want %q", c.name, k, got.Values[k], v)
				}
			}
		}
	}
}

func TestAppendNamesWhatItStartedFrom(t *testing.T) {
	b := mustNew(t, nil)
	c, err := b.AlterTopic(map[string]string{CleanupPolicy: "delete"}, []Alteration{{CleanupPolicy, OpAppend, str("compact")}})
	if err != nil || c.Expect[CleanupPolicy] != "delete" {
		t.Errorf("%+v, %v", c, err)
	}
	c, err = b.AlterTopic(nil, []Alteration{{CleanupPolicy, OpAppend, str("compact")}})
	if err != nil || len(c.ExpectAbsent) != 1 {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestReplicationFactorFollowsTheBrokersUntilItIsSet(t *testing.T) {
	b := mustNew(t, nil)
	for brokers, want := range map[int]int{0: 1, 1: 1, 2: 2, 3: 3, 9: 3} {
		if got := b.DefaultReplicationFactor(brokers); got != want {
			t.Errorf("%d brokers: %d", brokers, got)
		}
	}
	b = mustNew(t, map[string]string{"offsets.topic.replication.factor": "2"})
	if got := b.OffsetsTopicReplicationFactor(1); got != 2 {
		t.Errorf("set to 2: %d", got)
	}
}

func TestSizesFollowTheMachine(t *testing.T) {
	b := mustNew(t, nil)
	small := b.Sizes(Machine{Cores: 2, MemoryBytes: 4 << 30, DiskBytes: 100 << 30})
	if small.Shards != 1 || small.RingBytes != 128<<20 || small.WALBytes != 1<<30 || small.WALFileBytes != 64<<20 {
		t.Errorf("%+v", small)
	}
	large := b.Sizes(Machine{Cores: 64, MemoryBytes: 512 << 30, DiskBytes: 1 << 40})
	if large.Shards != 16 || large.RingBytes*16 != 8<<30 {
		t.Errorf("%+v", large)
	}
	for _, m := range []Machine{{}, {Cores: 1, MemoryBytes: 1 << 28, DiskBytes: 1 << 30}, {Cores: 200, MemoryBytes: 1 << 42, DiskBytes: 1 << 44}} {
		s := b.Sizes(m)
		if s.RingBytes < int64(4*s.CommitBytesMax) || s.WALFileBytes < int64(4*s.CommitBytesMax) || s.WALBytes < 3*s.WALFileBytes {
			t.Errorf("%+v gives %+v: the engine would refuse it", m, s)
		}
	}
	said := mustNew(t, map[string]string{"millrace.shards": "2", "millrace.tail.ring.bytes": "67108864", "queued.max.request.bytes": "1000"})
	if s := said.Sizes(Machine{Cores: 64, MemoryBytes: 1 << 40, DiskBytes: 1 << 40}); s.Shards != 2 || s.RingBytes != 32<<20 || s.NetworkMemoryBytes != 1000 {
		t.Errorf("%+v", s)
	}
}

func TestListeners(t *testing.T) {
	for _, c := range []struct{ text, want, err string }{
		{"PLAINTEXT://:9092", ":9092", ""},
		{"PLAINTEXT://[::1]:9092, CLIENT://127.0.0.1:9093", "[::1]:9092 127.0.0.1:9093", ""},
		{"SASL_SSL://:9093", "", "authentication"},
		{"SSL://:9093", "", "TLS"},
		{"localhost:9092", "", "PLAINTEXT://host:port"},
		{"PLAINTEXT://::1:9092", "", "brackets"},
		{"PLAINTEXT://:70000", "", "no port"},
		{"PLAINTEXT://:9092,B://:9092", "", "twice"},
		{"", "", "at least one"},
	} {
		b, err := New(map[string]string{"listeners": c.text})
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v; want %q", c.text, err, c.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		list, _ := b.Listeners()
		var got []string
		for _, l := range list {
			got = append(got, l.Address())
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v", c.text, got)
		}
	}
	if _, err := New(map[string]string{"advertised.listeners": "PLAINTEXT://0.0.0.0:9092"}); err == nil {
		t.Error("a wildcard was advertised")
	}
}

func TestNodeIDHasTwoNames(t *testing.T) {
	for _, c := range []struct {
		values map[string]string
		want   int32
	}{
		{nil, 1},
		{map[string]string{"broker.id": "4"}, 4},
		{map[string]string{"node.id": "5"}, 5},
		{map[string]string{"node.id": "5", "broker.id": "5"}, 5},
	} {
		if got := mustNew(t, c.values).NodeID(); got != c.want {
			t.Errorf("%v: %d", c.values, got)
		}
	}
	if _, err := New(map[string]string{"node.id": "5", "broker.id": "6"}); err == nil {
		t.Error("two different ids were taken")
	}
}

func TestNearestGuessesOnlyWhenClose(t *testing.T) {
	names := BrokerNames()
	for name, want := range map[string]string{
		"num.partition":          "num.partitions",
		"log.retention.hour":     "log.retention.hours",
		"auto.create.topic":      "",
		"LOG.SEGMENT.BYTES":      "log.segment.bytes",
		"lgo.dirs":               "log.dirs",
		"":                       "",
		"zzz":                    "",
		strings.Repeat("x", 1e5): "",
	} {
		if got := Nearest(name, names); got != want && !(name == "auto.create.topic" && got == "auto.create.topics.enable") {
			t.Errorf("%.20s: %q; want %q", name, got, want)
		}
	}
	if d := distance("ab", "ba"); d != 1 {
		t.Errorf("a swap costs %d", d)
	}
}

func TestReferenceNamesEverySetting(t *testing.T) {
	var b strings.Builder
	if err := WriteReference(&b); err != nil {
		t.Fatal(err)
	}
	for _, name := range append(BrokerNames(), TopicNames()...) {
		if !strings.Contains(b.String(), "`"+name+"`") {
			t.Errorf("%s is missing", name)
		}
	}
}
