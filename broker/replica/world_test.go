package replica

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"millrace/engine"
	"millrace/engine/batch"
	"millrace/raft"
)

// world is a few brokers' partitions over real logs, and the metadata that they follow.
type world struct {
	t     *testing.T
	img   *raft.Image
	nodes map[int32]*testNode
	topic raft.UUID
	clock time.Time
}

type testNode struct {
	id    int32
	set   *Set
	news  *news
	epoch int64
}

// news is a Replicator that notes what it was told.
type news struct {
	appended, moved, stored, resigned, leads atomic.Int32
}

func (n *news) Lead(*Partition, []int32)  { n.leads.Add(1) }
func (n *news) Resign(*Partition)         { n.resigned.Add(1) }
func (n *news) Appended(*Partition, bool) { n.appended.Add(1) }
func (n *news) Moved(*Partition)          { n.moved.Add(1) }
func (n *news) Stored(*Partition)         { n.stored.Add(1) }

// newWorld has brokers 1 to n, and topic t whose only partition is on all of them and led by 1.
func newWorld(t *testing.T, n int32, minISR int) *world {
	t.Helper()
	w := &world{t: t, img: raft.EmptyImage(), nodes: map[int32]*testNode{}, topic: raft.UUID{7}, clock: time.Unix(1000, 0)}
	w.do(raft.FormCluster{ClusterID: "test", Level: raft.MaxLevel})
	var replicas []int32
	for id := int32(1); id <= n; id++ {
		replicas = append(replicas, id)
		w.nodes[id] = &testNode{id: id, news: &news{}}
		w.register(id)
		w.nodes[id].set = NewSet(Options{
			Engine: openEngine(t), NodeID: id, Now: func() time.Time { return w.clock }, Replicator: w.nodes[id].news,
			Settings: func(*raft.Image, string) *Settings { return &Settings{} },
			Lag:      func() Lag { return Lag{Time: 10 * time.Second} },
		})
	}
	w.do(raft.CreateTopics{Topics: []raft.NewTopic{{
		Name: "t", ID: w.topic, Assignments: [][]int32{replicas},
		Configs: map[string]string{"min.insync.replicas": string(rune('0' + minISR))},
	}}})
	w.follow()
	return w
}

func openEngine(t *testing.T) *engine.Engine {
	t.Helper()
	e, err := engine.Open(engine.Options{
		Dir: t.TempDir(), CommitBytesMax: 256 << 10, RingBytes: 4 << 20, WALFileBytes: 2 << 20, WALBytes: 8 << 20, DiskReserveBytes: 1,
		Warn: t.Logf, OnFailed: func(err error) { t.Errorf("directory failed: %v", err) },
	})
	if err != nil {
		t.Fatal(err)
	}
	e.Start()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := e.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return e
}

// do applies one command to the metadata; nobody has heard of it until follow.
func (w *world) do(c raft.Command) raft.Result {
	w.t.Helper()
	img, res, err := w.img.Apply(w.img.Index+1, c)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := res.Err(); err != nil {
		w.t.Fatalf("%T: %v", c, err)
	}
	w.img = img
	return res
}

func (w *world) register(id int32) {
	w.t.Helper()
	res := w.do(raft.RegisterBroker{
		ID: id, DirectoryID: raft.UUID{byte(id)}, IncarnationID: raft.NewUUID(), Host: "localhost", Port: 9092, MaxLevel: raft.MaxLevel,
	})
	w.nodes[id].epoch = res.Value
}

// follow lets brokers, all of them unless some are named, see the newest metadata.
func (w *world) follow(ids ...int32) {
	w.t.Helper()
	for id, n := range w.nodes {
		if len(ids) > 0 && ids[0] != id {
			continue
		}
		if err := n.set.Apply(w.img); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) at(id int32) *Partition { return w.nodes[id].set.Get("t", 0) }

// append puts records into the leader's log, and waits until they are on its device.
func (w *world) append(id int32, records int) {
	w.t.Helper()
	p := w.at(id)
	for range records {
		if _, _, err := p.Append(oneRecord(-1, 0), Acks{}, nil, 0); err != nil {
			w.t.Fatal(err)
		}
	}
	w.settled(id)
}

// settled waits until everything in a log is on its device.
func (w *world) settled(id int32) {
	w.t.Helper()
	p := w.at(id)
	eventually(w.t, "the log is flushed", func() bool { return p.AckEnd() == p.log.AppendedEnd() })
}

// stream is a replication stream made by hand.
type stream struct {
	w        *world
	from, to int32
	stint    Stint
	in       Inflow
	offer    Offer
}

// open does a stream's handshake up to the first offer.
func (w *world) open(from, to int32) *stream {
	w.t.Helper()
	s, _, _, err := w.at(from).OpenStint(to)
	if err != nil {
		w.t.Fatal(err)
	}
	in, o, err := w.at(to).Follow(from, s.LeaderEpoch, s.Generation)
	if err != nil {
		w.t.Fatal(err)
	}
	return &stream{w, from, to, s, in, o}
}

// agree ends the handshake and returns its verdicts.
func (s *stream) agree() (verdicts []Verdict) {
	s.w.t.Helper()
	for range 10 {
		v, err := s.w.at(s.from).Offered(s.stint, s.offer)
		if err != nil {
			s.w.t.Fatal(err)
		}
		verdicts = append(verdicts, v)
		if v.Kind == Agreed {
			if err := s.w.at(s.to).Agree(s.in, v); err != nil {
				s.w.t.Fatal(err)
			}
			return verdicts
		}
		if s.offer, err = s.w.at(s.to).CutTo(s.in, v); err != nil {
			s.w.t.Fatal(err)
		}
	}
	s.w.t.Fatalf("no agreement: %+v", verdicts)
	return nil
}

// run reads the next run for the follower.
func (s *stream) run() *Run {
	s.w.t.Helper()
	from, to := s.w.at(s.from), s.w.at(s.to)
	r := &Run{Start: to.log.AppendedEnd(), HighWatermark: from.HighWatermark(), LogStart: from.log.LogStartOffset()}
	spans, info, err := from.log.Read(engine.ReadRequest{Offset: r.Start, UpTo: from.log.AppendedEnd(), MaxBytes: 1 << 20, MinOne: true}, nil)
	if err != nil {
		s.w.t.Fatal(err)
	}
	for _, p := range spans {
		r.Batches = append(r.Batches, p.Mem...)
		if p.Owner != nil {
			p.Owner.Release()
		}
	}
	r.End = info.NextOffset
	return r
}

// push sends everything and has the follower flush it; acknowledge tells the leader.
func (s *stream) push() {
	s.w.t.Helper()
	for s.w.at(s.to).log.AppendedEnd() < s.w.at(s.from).log.AppendedEnd() {
		if err := s.w.at(s.to).AppendRun(s.in, s.run()); err != nil {
			s.w.t.Fatal(err)
		}
	}
	s.w.settled(s.to)
}

func (s *stream) acknowledge() error {
	p := s.w.at(s.to)
	return s.w.at(s.from).Acknowledged(s.stint, p.log.AppendedEnd(), p.AckEnd())
}

// batchesOf reads a whole log.
func batchesOf(t *testing.T, p *Partition) (all []byte) {
	t.Helper()
	for at := p.log.LogStartOffset(); at < p.log.AppendedEnd(); {
		spans, info, err := p.log.Read(engine.ReadRequest{Offset: at, UpTo: p.log.AppendedEnd(), MaxBytes: 1 << 20, MinOne: true, MayBlock: true}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range spans {
			if s.Mem == nil {
				t.Fatal("a test log does not leave the ring")
			}
			all = append(all, s.Mem...)
			if s.Owner != nil {
				s.Owner.Release()
			}
		}
		at = info.NextOffset
	}
	if _, err := batch.ParseHeader(all); len(all) > 0 && err != nil {
		t.Fatal(err)
	}
	return all
}
