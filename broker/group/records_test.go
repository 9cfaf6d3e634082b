package group

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"
)

func ptr[T any](v T) *T { return &v }

// The bytes that Kafka 4 writes, by its schema, field by field.
func TestRecordsAreKafkas(t *testing.T) {
	hexes := func(parts ...string) string { return strings.ReplaceAll(strings.Join(parts, ""), " ", "") }
	for _, c := range []struct {
		name string
		have []byte
		want string
	}{
		{"offset key", appendOffsetKey(nil, offsetKey{"gr", "top", 5}), hexes(
			"0001",       // version
			"0002 6772",  // group
			"0003746f70", // topic
			"00000005",   // partition
		)},
		{"group key", appendGroupKey(nil, "gr"), hexes("0002", "0002 6772")},
		{"offset value", appendOffsetValue(nil, offset{100, 7, "m", 0x0102030405060708, -1, [16]byte{}}), hexes(
			"0003",             // version
			"0000000000000064", // offset
			"00000007",         // leader epoch
			"0001 6d",          // metadata
			"0102030405060708", // commit timestamp
		)},
		{"offset value with a retention of its own", appendOffsetValue(nil, offset{100, 7, "m", 1, 2, [16]byte{}}), hexes(
			"0001", "0000000000000064", "0001 6d", "0000000000000001", "0000000000000002",
		)},
		{"offset value with a topic id", appendOffsetValue(nil, offset{100, 7, "m", 1, -1, [16]byte{0xaa, 15: 0xbb}}), hexes(
			"0004", "0000000000000064", "00000007", "02 6d", "0000000000000001",
			"01", "00 10 aa 0000000000000000000000000000 bb", // tagged fields
		)},
		{"group value", appendGroupValue(nil, groupRecord{
			"consumer", 3, ptr("range"), ptr("a"), 9,
			[]memberRecord{{"a", ptr("i"), "c", "/h", 60000, 10000, []byte{1, 2}, []byte{3}}},
		}), hexes(
			"0003",
			"0008 636f6e73756d6572", // protocol type
			"00000003",              // generation
			"0005 72616e6765",       // protocol
			"0001 61",               // leader
			"0000000000000009",      // current state timestamp
			"00000001",              // members
			"0001 61",               // member id
			"0001 69",               // instance id
			"0001 63",               // client id
			"0002 2f68",             // client host
			"0000ea60",              // rebalance timeout
			"00002710",              // session timeout
			"00000002 0102",         // subscription
			"00000001 03",           // assignment
		)},
		{"empty group value", appendGroupValue(nil, groupRecord{currentStateTimestamp: -1}), hexes(
			"0003", "0000", "00000000", "ffff", "ffff", "ffffffffffffffff", "00000000",
		)},
	} {
		if have := hex.EncodeToString(c.have); have != c.want {
			t.Errorf("%s:\nhave %s\nwant %s", c.name, have, c.want)
		}
	}
}

// kmsg, from the same schemas, is the oracle.
func TestRecordsAreWhatKmsgReads(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := offsetKey{genString(t), genString(t), rapid.Int32().Draw(t, "partition")}
		kk := kmsg.OffsetCommitKey{Version: 1, Group: k.group, Topic: k.topic, Partition: k.partition}
		wantBytes(t, "offset key", appendOffsetKey(nil, k), kk.AppendTo(nil))

		o := genOffset(t)
		ko := kmsg.OffsetCommitValue{
			Version: 3, Offset: o.offset, LeaderEpoch: o.leaderEpoch, Metadata: o.metadata,
			CommitTimestamp: o.commitTimestampMs, ExpireTimestamp: o.expireTimestampMs, TopicID: o.topicID,
		}
		switch {
		case o.expireTimestampMs >= 0:
			ko.Version = 1
		case o.topicID != [16]byte{}:
			ko.Version = 4
		}
		wantBytes(t, "offset value", appendOffsetValue(nil, o), ko.AppendTo(nil))

		g := genGroupRecord(t)
		wantBytes(t, "group value", appendGroupValue(nil, g), kmsgGroup(g, 3).AppendTo(nil))
	})
}

func wantBytes(t *rapid.T, what string, have, want []byte) {
	if !bytes.Equal(have, want) {
		t.Fatalf("%s:\nhave %x\nwant %x", what, have, want)
	}
}

func TestAllVersionsOfRecordsAreRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := genOffset(t)
		for v := int16(0); v <= 4; v++ {
			ko := kmsg.OffsetCommitValue{
				Version: v, Offset: o.offset, LeaderEpoch: o.leaderEpoch, Metadata: o.metadata,
				CommitTimestamp: o.commitTimestampMs, ExpireTimestamp: o.expireTimestampMs,
			}
			if v == 4 {
				ko.TopicID = o.topicID
				ko.UnknownTags.Set(9, []byte("later"))
			}
			have, err := decodeOffsetValue(ko.AppendTo(nil))
			if err != nil {
				t.Fatal(err)
			}
			want := o
			if v < 3 {
				want.leaderEpoch = -1
			}
			if v != 1 {
				want.expireTimestampMs = -1
			}
			if v != 4 {
				want.topicID = [16]byte{}
			}
			if have != want {
				t.Fatalf("offset v%d: have %+v, want %+v", v, have, want)
			}
		}
		g := genGroupRecord(t)
		for v := int16(0); v <= 4; v++ {
			have, err := decodeGroupValue(kmsgGroup(g, v).AppendTo(nil))
			if err != nil {
				t.Fatal(err)
			}
			want := g
			want.members = nil
			for _, m := range g.members {
				if v < 1 {
					m.rebalanceTimeout = -1
				}
				if v < 3 {
					m.instanceID = nil
				}
				want.members = append(want.members, m)
			}
			if v < 2 {
				want.currentStateTimestamp = -1
			}
			if !reflect.DeepEqual(have, want) {
				t.Fatalf("group v%d:\nhave %+v\nwant %+v", v, have, want)
			}
		}
	})
}

func kmsgGroup(g groupRecord, version int16) *kmsg.GroupMetadataValue {
	kg := &kmsg.GroupMetadataValue{
		Version: version, ProtocolType: g.protocolType, Generation: g.generation,
		Protocol: g.protocol, Leader: g.leader, CurrentStateTimestamp: g.currentStateTimestamp,
	}
	for _, m := range g.members {
		kg.Members = append(kg.Members, kmsg.GroupMetadataValueMember{
			MemberID: m.memberID, InstanceID: m.instanceID, ClientID: m.clientID, ClientHost: m.clientHost,
			RebalanceTimeoutMillis: m.rebalanceTimeout, SessionTimeoutMillis: m.sessionTimeout,
			Subscription: m.subscription, Assignment: m.assignment,
		})
	}
	return kg
}

func genString(t *rapid.T) string { return rapid.StringN(0, 20, 80).Draw(t, "string") }

func genNullable(t *rapid.T) *string {
	return rapid.Ptr(rapid.StringN(0, 20, 80), true).Draw(t, "nullable")
}

func genBytes(t *rapid.T) []byte {
	return append([]byte(nil), rapid.SliceOfN(rapid.Byte(), 0, 50).Draw(t, "bytes")...)
}

func genOffset(t *rapid.T) offset {
	return offset{
		rapid.Int64().Draw(t, "offset"), rapid.Int32Min(-1).Draw(t, "epoch"), genString(t),
		rapid.Int64().Draw(t, "commit"), rapid.Int64Min(-1).Draw(t, "expire"),
		[16]byte{rapid.Byte().Draw(t, "topic id"), 15: rapid.Byte().Draw(t, "topic id")},
	}
}

func genGroupRecord(t *rapid.T) groupRecord {
	g := groupRecord{
		protocolType: genString(t), generation: rapid.Int32().Draw(t, "generation"),
		protocol: genNullable(t), leader: genNullable(t), currentStateTimestamp: rapid.Int64().Draw(t, "since"),
	}
	for range rapid.IntRange(0, 4).Draw(t, "members") {
		g.members = append(g.members, memberRecord{
			genString(t), genNullable(t), genString(t), genString(t),
			rapid.Int32().Draw(t, "rebalance"), rapid.Int32().Draw(t, "session"), genBytes(t), genBytes(t),
		})
	}
	return g
}

func TestReplayRefusesWhatItCannotRead(t *testing.T) {
	offsetKeyBytes := appendOffsetKey(nil, offsetKey{"g", "t", 0})
	groupKeyBytes := appendGroupKey(nil, "g")
	member := memberRecord{memberID: "m", sessionTimeout: 1}
	for _, c := range []struct {
		name       string
		key, value []byte
		want       error
	}{
		{"no key", nil, nil, ErrCorruptRecord},
		{"one byte of key", []byte{0}, nil, ErrCorruptRecord},
		{"a consumer group's key (KIP-848)", []byte{0, 3, 0, 1, 'g'}, nil, ErrUnknownRecord},
		{"negative key version", []byte{0xff, 0xff}, nil, ErrUnknownRecord},
		{"cut key", offsetKeyBytes[:5], nil, ErrCorruptRecord},
		{"long key", append(bytes.Clone(groupKeyBytes), 0), nil, ErrCorruptRecord},
		{"empty offset value", offsetKeyBytes, []byte{}, ErrCorruptRecord},
		{"short topic id", offsetKeyBytes, []byte{
			0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 1, 7,
		}, ErrCorruptRecord},
		{"future offset value", offsetKeyBytes, []byte{0, 5}, ErrCorruptRecord},
		{"future group value", groupKeyBytes, []byte{0, 5}, ErrCorruptRecord},
		{"cut group value", groupKeyBytes, appendGroupValue(nil, groupRecord{protocolType: "consumer"})[:20], ErrCorruptRecord},
		{"more members than bytes", groupKeyBytes, append(appendGroupValue(nil, groupRecord{})[:22], 0x7f, 0xff, 0xff, 0xff), ErrCorruptRecord},
		{"members without a protocol", groupKeyBytes, appendGroupValue(nil, groupRecord{members: []memberRecord{member}}), ErrCorruptRecord},
		{"a member twice", groupKeyBytes, appendGroupValue(nil, groupRecord{protocol: ptr("p"), members: []memberRecord{member, member}}), ErrCorruptRecord},
		{"an instance twice", groupKeyBytes, appendGroupValue(nil, groupRecord{protocol: ptr("p"), members: []memberRecord{
			{memberID: "a", instanceID: ptr("i")}, {memberID: "b", instanceID: ptr("i")},
		}}), ErrCorruptRecord},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			if err := w.s.Replay(c.key, c.value, w.now); !errors.Is(err, c.want) {
				t.Fatalf("have %v, want %v", err, c.want)
			}
			equal(t, "groups", len(w.s.groups), 0)
		})
	}
}

func TestOldRecordsAreReplayed(t *testing.T) {
	w := newWorld(t)
	w.s = NewShard(w.cfg)
	key := kmsg.GroupMetadataKey{Version: 2, Group: "g"}
	value := kmsgGroup(groupRecord{
		protocolType: "consumer", generation: 4, protocol: ptr("range"), leader: ptr("nobody"),
		members: []memberRecord{{memberID: "m", sessionTimeout: 10_000, subscription: []byte(subscribe("t")), assignment: []byte("a")}},
	}, 0)
	if err := w.s.Replay(key.AppendTo(nil), value.AppendTo(nil), w.now); err != nil {
		t.Fatal(err)
	}
	w.take(w.s.Loaded(w.now))
	w.wantState("g", Stable)
	equal(t, "heartbeat", w.heartbeat("g", "m", 4), errNone)
	w.wantSync(w.sync("g", "m", 4), errNone, "a")
	equal(t, "rebalance timeout", w.s.groups["g"].members[0].rebalanceTimeoutMs, 10_000)
	equal(t, "leader", w.s.groups["g"].leader, "m") // the record's is not a member
	w.sleep(10 * time.Second)
	w.wantState("g", Empty)
}

func FuzzReplay(f *testing.F) {
	w := newWorld(f)
	w.stable("g", 2)
	w.commit("h", "t", 0, 1, metadata("m"))
	w.commit("h", "t", 1, 1, commitVersion(4), retention(5))
	w.deleteGroup("h")
	for _, r := range w.log {
		f.Add(r.Key, r.Value, r.Value == nil)
	}
	flexible := kmsgGroup(groupRecord{protocol: ptr("p"), members: []memberRecord{{memberID: "m"}}}, 4)
	f.Add(appendGroupKey(nil, "g"), flexible.AppendTo(nil), false)
	f.Fuzz(func(t *testing.T, key, value []byte, tombstone bool) {
		if tombstone {
			value = nil
		} else if value == nil {
			value = []byte{}
		}
		w := newWorld(t)
		w.s = NewShard(w.cfg)
		err := w.s.Replay(key, value, w.now)
		if err != nil && !errors.Is(err, ErrCorruptRecord) && !errors.Is(err, ErrUnknownRecord) {
			t.Fatalf("untyped error %v", err)
		}
		// Whatever was accepted is a state that works, and that can be written again.
		w.take(w.s.Loaded(w.now))
		for _, g := range w.s.groups {
			checkGroup(t, w.s, g)
			r := g.record()
			n := NewShard(w.cfg)
			if err := n.Replay(r.Key, r.Value, w.now); err != nil {
				t.Fatalf("replay of what was written again: %v", err)
			}
			w.describe(g.id)
		}
		w.sleep(1000 * time.Second)
	})
}

func FuzzSubscription(f *testing.F) {
	f.Add([]byte(subscribe("a", "b")))
	f.Fuzz(func(t *testing.T, metadata []byte) {
		topics := map[string]struct{}{}
		ok := subscriptionTopics(metadata, topics)
		var m kmsg.ConsumerMemberMetadata
		if err := m.ReadFrom(metadata); err == nil && m.Version >= 0 && metadata[2] < 0x80 { // no null array
			if !ok {
				t.Fatal("kmsg reads it")
			}
			for _, topic := range m.Topics {
				if _, there := topics[topic]; !there {
					t.Fatalf("topic %q is missing", topic)
				}
			}
		}
	})
}
