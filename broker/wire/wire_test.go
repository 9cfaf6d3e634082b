package wire

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// seeded returns a generator that a failure can be repeated with.
func seeded(t testing.TB) *rand.Rand {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func randString(r *rand.Rand) string {
	b := make([]byte, 1+r.IntN(40))
	for i := range b {
		b[i] = 'a' + byte(r.IntN(26))
	}
	return string(b)
}

func randID(r *rand.Rand) (id [16]byte) {
	for i := range id {
		id[i] = byte(r.Uint32())
	}
	return id
}

func randBytes(r *rand.Rand, most int) []byte {
	b := make([]byte, r.IntN(most))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func randProduce(r *rand.Rand, version int16) *kmsg.ProduceRequest {
	q := kmsg.NewPtrProduceRequest()
	q.Version = version
	q.Acks, q.TimeoutMillis = int16(r.IntN(3)-1), r.Int32()
	if r.IntN(3) == 0 {
		q.TransactionID = kmsg.StringPtr(randString(r))
	}
	for range r.IntN(5) {
		t := kmsg.NewProduceRequestTopic()
		if version >= 13 {
			t.TopicID = randID(r)
		} else {
			t.Topic = randString(r)
		}
		for range r.IntN(5) {
			p := kmsg.NewProduceRequestTopicPartition()
			p.Partition = r.Int32()
			if r.IntN(5) > 0 {
				p.Records = randBytes(r, 300)
			}
			t.Partitions = append(t.Partitions, p)
		}
		q.Topics = append(q.Topics, t)
	}
	return q
}

func TestProduceWalkAgreesWithKmsg(t *testing.T) {
	r := seeded(t)
	for range 3000 {
		version := int16(ProduceMin + r.IntN(ProduceMax-ProduceMin+1))
		q := randProduce(r, version)
		var w ProduceReader
		h, err := w.Reset(q.AppendTo(nil), version)
		if err != nil {
			t.Fatal(err)
		}
		if h.Acks != q.Acks || h.TimeoutMillis != q.TimeoutMillis || h.TopicCount != len(q.Topics) || (h.TransactionalID == nil) != (q.TransactionID == nil) {
			t.Fatalf("version %d: header %+v of %+v", version, h, q)
		}
		var p ProducePartition
		for _, qt := range q.Topics {
			for i, qp := range qt.Partitions {
				if !w.Next(&p) {
					t.Fatalf("version %d: the walk ended early: %v", version, w.Err())
				}
				if string(p.Topic) != qt.Topic || p.TopicID != qt.TopicID || p.Partition != qp.Partition || p.FirstPart != (i == 0) ||
					!bytes.Equal(p.Records, qp.Records) || (p.Records == nil) != (qp.Records == nil) {
					t.Fatalf("version %d: got %+v want %+v of %q", version, p, qp, qt.Topic)
				}
			}
		}
		if w.Next(&p) || w.Err() != nil || w.r.Left() != 0 {
			t.Fatalf("version %d: not at the end: %v, %d bytes left", version, w.Err(), w.r.Left())
		}
	}
}

func TestFetchWalkAgreesWithKmsg(t *testing.T) {
	r := seeded(t)
	for range 3000 {
		version := int16(FetchMin + r.IntN(FetchMax-FetchMin+1))
		q := kmsg.NewPtrFetchRequest()
		q.Version = version
		q.MaxWaitMillis, q.MinBytes, q.MaxBytes, q.IsolationLevel = r.Int32(), r.Int32(), r.Int32(), int8(r.IntN(2))
		q.SessionID, q.SessionEpoch = r.Int32(), r.Int32()
		if r.IntN(2) == 0 {
			q.Rack = randString(r)
		}
		for range r.IntN(4) {
			ft := kmsg.NewFetchRequestTopic()
			fg := kmsg.NewFetchRequestForgottenTopic()
			if version >= 13 {
				ft.TopicID, fg.TopicID = randID(r), randID(r)
			} else {
				ft.Topic, fg.Topic = randString(r), randString(r)
			}
			for range r.IntN(4) {
				p := kmsg.NewFetchRequestTopicPartition()
				p.Partition, p.FetchOffset, p.LogStartOffset, p.PartitionMaxBytes = r.Int32(), r.Int64(), r.Int64(), r.Int32()
				p.CurrentLeaderEpoch, p.LastFetchedEpoch = r.Int32(), r.Int32()
				ft.Partitions = append(ft.Partitions, p)
				fg.Partitions = append(fg.Partitions, r.Int32())
			}
			q.Topics = append(q.Topics, ft)
			q.ForgottenTopics = append(q.ForgottenTopics, fg)
		}
		var w FetchReader
		h, err := w.Reset(q.AppendTo(nil), version)
		if err != nil {
			t.Fatal(err)
		}
		if h.MaxWaitMillis != q.MaxWaitMillis || h.MinBytes != q.MinBytes || h.MaxBytes != q.MaxBytes || h.Isolation != q.IsolationLevel {
			t.Fatalf("version %d: header %+v of %+v", version, h, q)
		}
		if version >= 7 && (h.SessionID != q.SessionID || h.SessionEpoch != q.SessionEpoch) {
			t.Fatalf("version %d: session of %+v", version, h)
		}
		var p FetchPartition
		for _, qt := range q.Topics {
			for _, qp := range qt.Partitions {
				if !w.Next(&p) {
					t.Fatalf("version %d: the walk ended early: %v", version, w.Err())
				}
				if string(p.Topic) != qt.Topic || p.TopicID != qt.TopicID || p.Partition != qp.Partition || p.FetchOffset != qp.FetchOffset || p.MaxBytes != qp.PartitionMaxBytes {
					t.Fatalf("version %d: got %+v want %+v", version, p, qp)
				}
				if version >= 9 && p.LeaderEpoch != qp.CurrentLeaderEpoch || version >= 12 && p.LastFetchedEpoch != qp.LastFetchedEpoch {
					t.Fatalf("version %d: epochs of %+v", version, p)
				}
			}
		}
		if w.Next(&p) {
			t.Fatal("a partition too many")
		}
		if version >= 7 {
			for _, qt := range q.ForgottenTopics {
				for _, qp := range qt.Partitions {
					if !w.NextForgotten(&p) || p.Partition != qp || string(p.Topic) != qt.Topic || p.TopicID != qt.TopicID {
						t.Fatalf("version %d: forgotten %+v want %d of %q: %v", version, p, qp, qt.Topic, w.Err())
					}
				}
			}
		}
		if w.NextForgotten(&p) || w.Err() != nil || w.r.Left() != 0 {
			t.Fatalf("version %d: not at the end: %v, %d bytes left", version, w.Err(), w.r.Left())
		}
		if version >= 11 && string(w.Rack()) != q.Rack {
			t.Fatalf("version %d: rack %q of %q", version, w.Rack(), q.Rack)
		}
	}
}

func randNodes(r *rand.Rand) (nodes []NodeEndpoint) {
	for range r.IntN(3) {
		nodes = append(nodes, NodeEndpoint{ID: r.Int32(), Host: randString(r), Port: r.Int32(), Rack: []string{"", "a"}[r.IntN(2)]})
	}
	return nodes
}

func TestProduceResponseIsReadByKmsg(t *testing.T) {
	r := seeded(t)
	for range 2000 {
		version := int16(ProduceMin + r.IntN(ProduceMax-ProduceMin+1))
		name, id := randString(r), randID(r)
		p := ProduceResult{
			Partition: r.Int32(), ErrorCode: []int16{0, 6, 87}[r.IntN(3)], BaseOffset: r.Int64(), LogAppendMillis: r.Int64(),
			LogStartOffset: r.Int64(), ErrorMessage: randString(r), LeaderID: r.Int32(), LeaderEpoch: r.Int32(),
			RecordErrors: []RecordError{{Index: r.Int32(), Message: "m"}},
		}
		flexible := ProduceFlexible(version)
		b := AppendCount(nil, flexible, 1)
		b = AppendProduceTopic(b, version, name, id, 1)
		b = AppendProduceResult(b, version, &p)
		b = AppendNoTags(b, flexible)
		nodes := randNodes(r)
		b = AppendProduceEnd(b, version, 7, nodes)
		got := kmsg.NewPtrProduceResponse()
		got.Version = version
		if err := got.ReadFrom(b); err != nil {
			t.Fatalf("version %d: %v", version, err)
		}
		if again := got.AppendTo(nil); !bytes.Equal(again, b) {
			t.Fatalf("version %d:\n got %x\nkmsg %x", version, b, again)
		}
		if want := len(nodes); version >= 10 && (len(got.Brokers) != want || want > 0 && (got.Brokers[0].Host != nodes[0].Host || got.Brokers[0].NodeID != nodes[0].ID)) {
			t.Fatalf("version %d: nodes %+v of %+v", version, got.Brokers, nodes)
		}
		q := got.Topics[0].Partitions[0]
		if q.BaseOffset != p.BaseOffset || q.ErrorCode != p.ErrorCode || got.ThrottleMillis != 7 || version >= 10 && p.ErrorCode == 6 && q.CurrentLeader.LeaderID != p.LeaderID {
			t.Fatalf("version %d: %+v of %+v", version, q, p)
		}
	}
}

func TestFetchResponseIsReadByKmsg(t *testing.T) {
	r := seeded(t)
	for range 2000 {
		version := int16(FetchMin + r.IntN(FetchMax-FetchMin+1))
		isolation := int8(r.IntN(2))
		records := randBytes(r, 100)
		p := FetchResult{
			Partition: r.Int32(), ErrorCode: []int16{0, 6, 74, 1}[r.IntN(4)], HighWatermark: r.Int64(), LastStableOffset: r.Int64(),
			LogStartOffset: r.Int64(), Aborted: []AbortedTxn{{1, 2}}, RecordBytes: len(records), LeaderID: r.Int32(), LeaderEpoch: r.Int32(),
			PreferredReplica: r.Int32(),
		}
		flexible := FetchFlexible(version)
		b := AppendFetchStart(nil, version, 0, 99, 1)
		b = AppendFetchTopic(b, version, randString(r), randID(r), 1)
		b = AppendFetchResult(b, version, isolation, &p)
		b = append(b, records...)
		b = AppendFetchResultEnd(b, version, &p)
		b = AppendNoTags(b, flexible)
		nodes := randNodes(r)
		b = AppendFetchEnd(b, version, nodes)
		got := kmsg.NewPtrFetchResponse()
		got.Version = version
		if err := got.ReadFrom(b); err != nil {
			t.Fatalf("version %d: %v", version, err)
		}
		if again := got.AppendTo(nil); !bytes.Equal(again, b) {
			t.Fatalf("version %d:\n got %x\nkmsg %x", version, b, again)
		}
		if want := len(nodes); version >= 16 && (len(got.Brokers) != want || want > 0 && got.Brokers[want-1].Port != nodes[want-1].Port) {
			t.Fatalf("version %d: nodes %+v of %+v", version, got.Brokers, nodes)
		}
		q := got.Topics[0].Partitions[0]
		if version >= 11 && q.PreferredReadReplica != p.PreferredReplica {
			t.Fatalf("version %d: preferred replica %d of %d", version, q.PreferredReadReplica, p.PreferredReplica)
		}
		if !bytes.Equal(q.RecordBatches, records) || q.HighWatermark != p.HighWatermark || (q.AbortedTransactions == nil) != (isolation == 0) {
			t.Fatalf("version %d: %+v of %+v", version, q, p)
		}
	}
}

func FuzzProduceReader(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	for v := int16(ProduceMin); v <= ProduceMax; v++ {
		f.Add(v, randProduce(r, v).AppendTo(nil))
	}
	f.Fuzz(func(t *testing.T, version int16, body []byte) {
		if version < ProduceMin || version > ProduceMax {
			return
		}
		var w ProduceReader
		if _, err := w.Reset(body, version); err != nil {
			return
		}
		var p ProducePartition
		n := 0
		for w.Next(&p) {
			if n++; n > len(body) {
				t.Fatal("more partitions than bytes")
			}
		}
		want := kmsg.NewPtrProduceRequest()
		want.Version = version
		if w.Err() == nil && want.ReadFrom(body) == nil {
			m := 0
			for _, qt := range want.Topics {
				m += len(qt.Partitions)
			}
			if m != n {
				t.Fatalf("walked %d partitions, kmsg %d", n, m)
			}
		}
	})
}

func FuzzFetchReader(f *testing.F) {
	f.Add(int16(12), []byte{0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, version int16, body []byte) {
		if version < FetchMin || version > FetchMax {
			return
		}
		var w FetchReader
		if _, err := w.Reset(body, version); err != nil {
			return
		}
		var p FetchPartition
		n := 0
		for w.Next(&p) {
			n++
		}
		for w.NextForgotten(&p) {
			n++
		}
		if n > len(body) {
			t.Fatal("more partitions than bytes")
		}
	})
}

func FuzzRequestHeader(f *testing.F) {
	f.Add([]byte{0, 18, 0, 3, 0, 0, 0, 1, 0xff, 0xff, 0})
	f.Fuzz(func(_ *testing.T, b []byte) {
		r := NewReader(b)
		ReadHeaderStart(&r)
		r.Tags(true, nil)
	})
}
