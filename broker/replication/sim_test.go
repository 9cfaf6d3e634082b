package replication

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"millrace/engine"
)

var (
	simSeeds = flag.Int("sim.seeds", 12, "random runs of the streams")
	simSeed  = flag.Uint64("sim.seed", 0, "run this seed alone")
)

// simLink is a connection between a sender and a receiver, in memory: it delays, breaks, and flips bits of bulks.
type simLink struct {
	s              *Sender
	from, to       *testNode
	r              *Receiver // nil: not connected
	forth, back    []packet
	reconnectAfter time.Time
}

type packet struct {
	at         time.Time
	kind       byte
	head, bulk []byte
}

// sim drives a cluster of nodes over such links on one goroutine, with a clock of its own. The engines have their threads.
type sim struct {
	*testCluster
	seed   uint64
	rng    *rand.Rand
	now    time.Time
	links  []*simLink
	epochs map[Key]int32
	leader map[Key]int32
	calm   atomic.Bool
	sync   atomic.Bool // what runs aside runs at once
	flips  int
	breaks int
	moves  int
	frames int
}

func newSim(t *testing.T, seed uint64, nodes, partitions int, o engine.Options, lc engine.LogConfig) *sim {
	c := &testCluster{t: t}
	s := &sim{
		testCluster: c, seed: seed, rng: rand.New(rand.NewPCG(seed, 1)), now: time.UnixMilli(1e12),
		epochs: map[Key]int32{}, leader: map[Key]int32{},
	}
	s.sync.Store(s.rng.IntN(2) == 0)
	var chaos atomic.Uint64
	for id := range int32(nodes) {
		n := c.newTestNode(id, partitions, o, lc)
		n.n = NewNode(NodeOptions{
			NodeID: id, BrokerEpoch: func() int64 { return int64(id) + 1 }, ImageIndex: func() uint64 { return 1 }, Find: n.find,
			OnPeer: func(p *Peer) {
				s.links = append(s.links, &simLink{s: p.Tail, from: n, to: c.nodes[p.ID]}, &simLink{s: p.CatchUp, from: n, to: c.nodes[p.ID]})
			},
			Aside: func(f func()) {
				if s.sync.Load() {
					f()
				} else {
					go f()
				}
			},
		})
		for _, p := range n.parts {
			p.busy = func() bool { return !s.calm.Load() && chaos.Add(1)%7 == 0 }
		}
	}
	return s
}

func (s *sim) lead(k Key, id int32) {
	s.epochs[k]++
	s.leader[k] = id
	var followers []int32
	for _, n := range s.nodes {
		if n.id != id {
			followers = append(followers, n.id)
		}
	}
	for _, n := range s.nodes {
		if n.id != id && s.rng.IntN(2) == 0 { // the others resign late, when a newer leader's stream comes, or now
			n.n.resign(n.parts[k])
		}
	}
	if err := s.replicaOf(id, k).lead(s.epochs[k], followers); err != nil {
		s.fatal("lead: %v", err)
	}
}

func (s *sim) fatal(format string, args ...any) {
	s.t.Helper()
	s.t.Fatalf("seed %d: %s (again: go test -run %s -sim.seed=%d)", s.seed, fmt.Sprintf(format, args...), s.t.Name(), s.seed)
}

// step does one random thing on each link.
func (s *sim) step() {
	s.now = s.now.Add(time.Duration(s.rng.IntN(2000)) * time.Microsecond)
	for _, l := range s.links {
		switch {
		case l.r == nil:
			if l.s.Wanted() && !s.now.Before(l.reconnectAfter) {
				l.r = l.to.n.Accept(l.from.id, l.s.Kind())
				l.s.Connected(s.now)
			}
			continue
		case !s.calm.Load() && s.rng.IntN(400) == 0:
			s.cut(l)
			continue
		}
		for range s.rng.IntN(4) {
			if len(l.forth) < 8 {
				if f, _ := l.s.Next(s.now); f != nil {
					l.forth = append(l.forth, s.packet(f))
					f.Release()
				}
			}
			if len(l.back) < 8 {
				if f, _ := l.r.Next(s.now); f != nil {
					l.back = append(l.back, s.packet(f))
					f.Release()
				}
			}
		}
		r := l.r
		s.deliver(&l.forth, func(p packet) error { return r.OnFrame(s.now, p.kind, p.head, p.bulk) })
		s.deliver(&l.back, func(p packet) error { return l.s.OnFrame(s.now, p.kind, p.head, p.bulk) })
	}
}

func (s *sim) cut(l *simLink) {
	s.breaks++
	l.r.Lost()
	l.s.Lost(s.now)
	l.r, l.forth, l.back = nil, nil, nil
	l.reconnectAfter = s.now.Add(time.Duration(s.rng.IntN(30)) * time.Millisecond)
}

func (s *sim) packet(f *Frame) packet {
	bulk, err := f.BulkBytes(nil)
	if err != nil {
		s.fatal("read a frame: %v", err)
	}
	s.frames++
	if len(bulk) > 0 && !s.calm.Load() && s.rng.IntN(40) == 0 {
		s.flips++
		bulk[s.rng.IntN(min(len(bulk), 1<<s.rng.IntN(20)))] ^= 1 << s.rng.IntN(8) // often in the first header
	}
	return packet{s.now.Add(time.Duration(s.rng.IntN(3000)) * time.Microsecond), f.Type, bytes.Clone(f.Head), bulk}
}

func (s *sim) deliver(queue *[]packet, take func(packet) error) {
	for len(*queue) > 0 && !(*queue)[0].at.After(s.now) {
		p := (*queue)[0]
		*queue = (*queue)[1:]
		if err := take(p); err != nil {
			s.fatal("a frame of type %d is refused: %v", p.kind, err)
		}
	}
}

// append appends to a random partition where it is led.
func (s *sim) append(sizeMax int) {
	k := key(s.rng.IntN(len(s.leader)))
	p := s.replicaOf(s.leader[k], k)
	if _, err := p.append(s.rng.IntN(sizeMax)); err != nil {
		s.fatal("append: %v", err)
	}
}

// settle runs on without trouble until every replica is what its leader is, and says so.
func (s *sim) settle() {
	s.calm.Store(true)
	for began := time.Now(); ; {
		s.step()
		s.now = s.now.Add(time.Millisecond)
		if why := s.unsettled(); why == "" {
			break
		} else if time.Since(began) > 60*time.Second {
			for _, l := range s.links {
				s.t.Logf("%d -> %d: %+v\n%s", l.from.id, l.to.id, l.s.stats(), describe(l))
			}
			s.fatal("does not settle: %s", why)
		}
	}
	for k, id := range s.leader {
		want, err := contents(s.replicaOf(id, k).log)
		if err != nil {
			s.fatal("read: %v", err)
		}
		for _, n := range s.nodes {
			got, err := contents(n.parts[k].log)
			if err != nil {
				s.fatal("read: %v", err)
			}
			if !bytes.Equal(got, want) {
				s.fatal("%s: node %d has %d bytes that are not the %d of its leader %d", k, n.id, len(got), len(want), id)
			}
		}
	}
}

func (s *sim) unsettled() string {
	for k, id := range s.leader {
		p := s.replicaOf(id, k)
		end := p.log.AppendedEnd()
		if hw := p.HighWatermark(); hw != end {
			return fmt.Sprintf("%s: leader %d ends at %d, its high watermark is %d", k, id, end, hw)
		}
		for _, n := range s.nodes {
			if f := n.parts[k]; f.log.AppendedEnd() != end || f.HighWatermark() != end {
				return fmt.Sprintf("%s: leader ends at %d, node %d at %d with high watermark %d", k, end, n.id, f.log.AppendedEnd(), f.HighWatermark())
			}
		}
	}
	for _, l := range s.links {
		if st := l.s.stats(); st.BytesInFlight != 0 {
			return fmt.Sprintf("%d bytes in flight and everything acknowledged", st.BytesInFlight)
		}
	}
	return ""
}

func smallEngine() engine.Options {
	return engine.Options{CommitBytesMax: 64 << 10, RingBytes: 512 << 10, WALFileBytes: 1 << 20, WALBytes: 8 << 20}
}

// TestFollowersBecomeTheirLeaders: appends, broken connections, flipped bits, full rings, new leaders in any order. In the end
// all replicas of a partition are the same bytes, and no acknowledgement on the way was of what the follower did not have.
func TestFollowersBecomeTheirLeaders(t *testing.T) {
	flips, breaks, moves := 0, 0, 0
	for i := range *simSeeds {
		seed := uint64(i + 1)
		if *simSeed != 0 {
			seed = *simSeed
		}
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			s := newSim(t, seed, 3, 4, smallEngine(), engine.LogConfig{SegmentBytes: 256 << 10})
			for k := range s.nodes[0].parts {
				s.lead(k, s.rng.Int32N(3))
			}
			sizeMax := 1 << (6 + s.rng.IntN(10))
			for range 3000 {
				for range s.rng.IntN(6) {
					s.append(sizeMax)
				}
				if s.rng.IntN(300) == 0 {
					s.lead(key(s.rng.IntN(len(s.leader))), s.rng.Int32N(3))
				}
				s.step()
			}
			s.settle()
			for _, l := range s.links {
				if l.s.Kind() == KindCatchUp && l.s.stats().FramesSent > 0 {
					s.moves++
				}
			}
			t.Logf("%d frames, %d flipped bits, %d broken connections, %d catch-up connections used", s.frames, s.flips, s.breaks, s.moves)
			flips, breaks, moves = flips+s.flips, breaks+s.breaks, moves+s.moves
		})
		if *simSeed != 0 {
			break
		}
	}
	t.Cleanup(func() {
		if !t.Failed() && *simSeed == 0 && (flips == 0 || breaks == 0 || moves == 0) {
			t.Errorf("nothing was tested: %d flipped bits, %d broken connections, %d catch-up connections", flips, breaks, moves)
		}
	})
}

// describe prints the streams of a link.
func describe(l *simLink) string {
	b := ""
	for o := range l.s.mine {
		b += fmt.Sprintf("  out %s: state %d stream %d stint %+v next %d received %d stored %d unwanted %t\n", o.key, o.state, o.stream, o.stint, o.next, o.received, o.stored, o.unwanted.Load())
	}
	for k, p := range l.to.parts {
		b += fmt.Sprintf("  log %s: appended %d written %d durable %d acked %d hw %d %s\n", k, p.log.AppendedEnd(), p.log.WrittenEnd(), p.log.DurableEnd(), p.log.AckEnd(), p.HighWatermark(), p.describe())
	}
	if l.r != nil {
		for _, in := range l.r.streams {
			b += fmt.Sprintf("  in %s: state %d stream %d epoch %d generation %d end %d got %d dirty %t seat %t news %x\n", in.key, in.state, in.stream, in.epoch, in.generation, in.end, in.got, in.dirty, in.seat != nil && in.seat.taken.Load() == in, in.news.Load())
		}
	}
	return b
}

func (p *testPartition) describe() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return fmt.Sprintf("epoch %d leading %t followed %t in %+v stored %v stints %v followers %v", p.epoch, p.leading, p.followed, p.in, p.stored, p.stints, p.followers)
}
