package raft

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// oneOfEach holds every command with every field set.
func oneOfEach() []Command {
	m := map[string]string{"a": "1", "b": ""}
	return []Command{
		FormCluster{ClusterID: "x", Level: 1, Replicas: []Replica{{ID: 1, NodeID: 2, DirectoryID: testUUID(3)}}, Brokers: []int32{1, -5}},
		RegisterBroker{1, 2, testUUID(3), testUUID(4), "host", 9092, "rack", 3, true, true},
		FenceBroker{1, 2, 3},
		UnfenceBroker{1, 2, 3},
		UnregisterBroker{1, 2},
		CreateTopics{[]NewTopic{{"a", testUUID(1), true, [][]int32{{1, 2}, {3}}, m}, {Name: "b", ID: testUUID(2)}}},
		DeleteTopics{[]UUID{testUUID(1), testUUID(2)}, 1 << 60},
		CreatePartitions{[]MorePartitions{{testUUID(1), 7, [][]int32{{1}}}}},
		AlterConfigs{[]ConfigChange{{ConfigResource{ConfigTopic, "t"}, true, m, []string{"d"}, m, []string{"e", "f"}}}},
		AllocateProducerIDs{1, 2, 3},
		AlterPartitions{1, 2, []ISRChange{{testUUID(1), 2, 3, 4, []ISRMember{{1, 2}, {3, 4}}}}},
		ElectLeaders{1, []Election{{testUUID(1), 2, 3, -1, true}}},
		BecomeController{5},
		FinalizeLevel{6},
		RegisterBrokerV2{
			RegisterBroker{1, 2, testUUID(3), testUUID(4), "host", 9092, "rack", 3, true, true},
			"addr",
			[]Listener{{"a", "b", 3}},
			true, true,
			[]TopicPartitions{{testUUID(1), []int32{1, 2}}},
		},
		AddReplica{1, testUUID(2), "addr"},
		RemoveReplica{3},
		ControlledShutdown{1, 2, 3},
		DrainBroker{1, true},
		ReassignPartitions{[]Reassignment{{testUUID(1), 2, []int32{1, 2}, 3}, {testUUID(1), 2, nil, -1}}},
		AlterPartitionsV2{1, 2, []ISRChangeV2{{ISRChange{testUUID(1), 2, 3, 4, []ISRMember{{1, 2}, {3, 4}}}, true}}},
		ClaimController{5, 6},
	}
}

func TestCommandsSurviveTheCodec(t *testing.T) {
	if len(oneOfEach()) != len(kinds) {
		t.Fatalf("%d kinds, %d tested", len(kinds), len(oneOfEach()))
	}
	for _, c := range oneOfEach() {
		b, err := encodeCommand(c)
		if err != nil {
			t.Fatal(err)
		}
		got, level, err := decodeCommand(b)
		if err != nil || level != kinds[c.kind()].level {
			t.Fatalf("%T: level %d, %v", c, level, err)
		}
		if !reflect.DeepEqual(reflect.ValueOf(got).Elem().Interface(), c) {
			t.Fatalf("%+v became %+v", c, got)
		}
		for n := range b {
			if _, _, err := decodeCommand(b[:n]); err == nil {
				t.Fatalf("%T: %d of %d bytes decode", c, n, len(b))
			}
		}
		if _, _, err := decodeCommand(append(b, 0)); err == nil {
			t.Fatalf("%T: trailing bytes are accepted", c)
		}
	}
}

// The bytes of commands are in logs: they must never change.
func TestCommandBytesAreGolden(t *testing.T) {
	b, _ := encodeCommand(FenceBroker{ID: 1, BrokerEpoch: 300, ControllerEpoch: 9})
	if !bytes.Equal(b, []byte{1, 0, 3, 2, 0xd8, 4, 9}) {
		t.Fatalf("%#v", b)
	}
}

func TestLargeCommandIsRefused(t *testing.T) {
	c := FormCluster{ClusterID: strings.Repeat("x", MaxCommandBytes)}
	if _, err := encodeCommand(c); !errors.Is(err, ErrCommandTooLarge) {
		t.Fatal(err)
	}
	if _, _, err := decodeCommand(make([]byte, MaxCommandBytes+1)); !errors.Is(err, ErrCommandTooLarge) {
		t.Fatal(err)
	}
}

func TestResultsSurviveTheCodec(t *testing.T) {
	r := Result{Index: 1, Code: LimitExceeded, Detail: "d", Value: -4, Items: []ItemResult{{OK, ""}, {TopicExists, "x"}}}
	got, err := decodeResult(encodeResult(r))
	if err != nil || !reflect.DeepEqual(got, r) {
		t.Fatalf("%+v, %v", got, err)
	}
}

func TestEveryCodeHasWords(t *testing.T) {
	for c := OK; c <= ReplicaRemoved; c++ {
		if s := c.Error(); strings.Contains(s, "code") || s == "" {
			t.Errorf("code %d: %q", uint16(c), s)
		}
	}
	if len(codeNames) != int(ReplicaRemoved)+1 {
		t.Error("codeNames is longer than the list of codes")
	}
}

func TestUUIDText(t *testing.T) {
	for range 1000 {
		u := NewUUID()
		if got, err := ParseUUID(u.String()); err != nil || got != u || u.IsZero() || len(u.String()) != 22 {
			t.Fatalf("%s: %s, %v", u, got, err)
		}
	}
	for _, s := range []string{"", "x", strings.Repeat("A", 23), "!!!!!!!!!!!!!!!!!!!!!!"} {
		if _, err := ParseUUID(s); err == nil {
			t.Errorf("%q is accepted", s)
		}
	}
}

func TestSnapshotSurvivesAndRefusesEveryBitFlip(t *testing.T) {
	w := threeBrokers(t, "2")
	w.alterOK(1, "a", 1)
	w.create("b", 2, []int32{1}, []int32{2})
	w.ok(DeleteTopics{IDs: []UUID{testUUID(2)}, NowMillis: 1 << 40})
	w.ok(AllocateProducerIDs{BrokerID: 1, BrokerEpoch: w.m.Brokers[1].Epoch, Count: 10})
	b := encodeSnapshot(w.m)
	m, err := readSnapshot(bytes.NewReader(b))
	if err != nil || m.Hash() != w.m.Hash() || !bytes.Equal(encodeSnapshot(m), b) {
		t.Fatalf("%v", err)
	}
	if m.Topic("a") == nil || m.PartitionCount() != 1 || m.Deleted(testUUID(2)) == nil || m.NextProducerID != 10 {
		t.Fatalf("%+v", m)
	}
	for i := range b {
		for bit := range 8 {
			b[i] ^= 1 << bit
			if _, err := decodeSnapshot(b); !errors.Is(err, ErrSnapshotDamaged) {
				t.Fatalf("byte %d bit %d: %v", i, bit, err)
			}
			b[i] ^= 1 << bit
		}
		if _, err := decodeSnapshot(b[:i]); !errors.Is(err, ErrSnapshotDamaged) {
			t.Fatalf("%d bytes: %v", i, err)
		}
	}
}

func FuzzDecodeCommand(f *testing.F) {
	for _, c := range oneOfEach() {
		b, _ := encodeCommand(c)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, _, err := decodeCommand(b)
		if err != nil {
			return
		}
		again, err := encodeCommand(c)
		if err != nil {
			t.Fatalf("%+v does not encode: %v", c, err)
		}
		if twice, _, err := decodeCommand(again); err != nil || !reflect.DeepEqual(c, twice) {
			t.Fatalf("%+v became %+v, %v", c, twice, err)
		}
	})
}

// FuzzApply lets the bytes of two commands loose on a small cluster.
func FuzzApply(f *testing.F) {
	cs := oneOfEach()
	for i := range cs {
		a, _ := encodeCommand(cs[i])
		b, _ := encodeCommand(cs[(i+3)%len(cs)])
		f.Add(a, b)
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		w := threeBrokers(t, "2")
		if len(a)%2 == 1 {
			w = newCluster(t, 3)
			w.create("a", 1, []int32{1, 2, 3}, []int32{2, 3, 1})
			w.ok(w.reassign("a", 3, 2))
		}
		for _, cmd := range [][]byte{a, b} {
			now, _, err := applyBytes(w.m, w.m.Index+1, cmd)
			if err != nil {
				return
			}
			w.m = now
			w.check()
		}
		m, err := decodeSnapshot(encodeSnapshot(w.m))
		if err != nil || m.Hash() != w.m.Hash() {
			t.Fatalf("snapshot of the outcome: %v", err)
		}
	})
}

func FuzzReadImage(f *testing.F) {
	e := encoder{}
	appendImage(&e, newImage())
	f.Add(e.b)
	m := newImage()
	for i, c := range []Command{
		FormCluster{ClusterID: "x", Level: 1, Brokers: []int32{3}},
		RegisterBroker{ID: 1, DirectoryID: testUUID(1), IncarnationID: testUUID(2), Host: "h", MaxLevel: 1},
		CreateTopics{[]NewTopic{{Name: "a", ID: testUUID(1), Assignments: [][]int32{{1}}, Configs: map[string]string{"k": "v"}}}},
	} {
		b, _ := encodeCommand(c)
		m, _, _ = applyBytes(m, uint64(i)+1, b)
	}
	e = encoder{}
	appendImage(&e, m)
	f.Add(e.b)
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := readImage(&decoder{b: b})
		if err != nil {
			return
		}
		again, err := decodeSnapshot(encodeSnapshot(m))
		if err != nil || again.Hash() != m.Hash() {
			t.Fatalf("an accepted image does not survive: %v", err)
		}
	})
}

func FuzzDecodeResult(f *testing.F) {
	f.Add(encodeResult(Result{Index: 1, Code: OK, Items: []ItemResult{{Code: TopicExists, Detail: "x"}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeResult(b)
		if err != nil {
			return
		}
		if again, err := decodeResult(encodeResult(r)); err != nil || !reflect.DeepEqual(r, again) {
			t.Fatalf("%+v became %+v, %v", r, again, err)
		}
	})
}
