package controller

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"millrace/raft"
)

// Errors of placement.
var (
	ErrTooFewBrokers = errors.New("controller: fewer brokers than replicas")
	ErrNobodyLives   = errors.New("controller: no broker is alive")
)

// load counts what every broker holds: replicas, and partitions that prefer it as leader.
type load struct {
	replicas, leaders map[int32]int
	racks             map[int32]string
}

func loadOf(m *raft.Image) *load {
	l := &load{replicas: map[int32]int{}, leaders: map[int32]int{}, racks: map[int32]string{}}
	for id, b := range m.Brokers {
		l.racks[id] = b.Rack
		if b.Rack == "" {
			l.racks[id] = fmt.Sprint("\x00", id) // without a rack a broker stands alone
		}
	}
	m.EachTopic(func(t *raft.Topic) bool {
		for _, p := range t.Partitions {
			l.add(target(p))
		}
		return true
	})
	return l
}

// target is who will hold a partition once its reassignment is done.
func target(p *raft.Partition) []int32 {
	if len(p.Removing) == 0 {
		return p.Replicas
	}
	return p.Replicas[:len(p.Replicas)-len(p.Removing)] // the target stands first
}

func (l *load) add(replicas []int32) {
	for i, id := range replicas {
		l.replicas[id]++
		if i == 0 {
			l.leaders[id]++
		}
	}
}

// next chooses another broker for a partition: from the rack least used by it, then the one that holds least. tie
// makes equal brokers take turns.
func (l *load) next(candidates, have []int32, first bool, tie uint64) int32 {
	used := map[string]int{}
	for _, id := range have {
		used[l.racks[id]]++
	}
	best := raft.NoBroker
	compare := func(a, b int32) int {
		c := cmp.Compare(used[l.racks[a]], used[l.racks[b]])
		if first {
			c = cmp.Or(c, cmp.Compare(l.leaders[a], l.leaders[b]))
		}
		return cmp.Or(c, cmp.Compare(l.replicas[a], l.replicas[b]), cmp.Compare(mix(tie, a), mix(tie, b)), cmp.Compare(a, b))
	}
	for _, id := range candidates {
		if !slices.Contains(have, id) && (best == raft.NoBroker || compare(id, best) < 0) {
			best = id
		}
	}
	return best
}

func mix(seed uint64, id int32) uint64 {
	h := seed ^ uint64(uint32(id))*0x9e3779b97f4a7c15
	h ^= h >> 29
	h *= 0xbf58476d1ce4e5b9
	return h ^ h>>32
}

func live(m *raft.Image, id int32) bool {
	b := m.Broker(id)
	return b != nil && !b.Fenced && !b.ShuttingDown
}

// candidates are the brokers that may hold new replicas: living ones that are not drained, and where those are too
// few also brokers that are away, so that a node that comes late is counted on.
func candidates(m *raft.Image, want int) (alive, all []int32) {
	for _, b := range m.SortedBrokers() {
		if b.Draining {
			continue
		}
		if live(m, b.ID) {
			alive = append(alive, b.ID)
		} else {
			all = append(all, b.ID)
		}
	}
	if len(alive) >= want {
		return alive, alive
	}
	return alive, append(slices.Clone(alive), all...)
}

// Place assigns replicas to the partitions of one topic: see Placer.
func Place(m *raft.Image, partitions, replicationFactor int, seed uint64) ([][]int32, error) {
	return NewPlacer(m).Place(partitions, replicationFactor, seed)
}

// Placer assigns replicas to new partitions, of several topics one after another: balanced over brokers, spread over
// racks (broker.rack), with a living broker in front of each. It belongs to one goroutine.
type Placer struct {
	m *raft.Image
	l *load
}

// NewPlacer counts what the brokers of an image hold; what it assigns is added.
func NewPlacer(m *raft.Image) *Placer { return &Placer{m: m, l: loadOf(m)} }

// Place assigns replicas to partitions. Equal arguments after equal calls give equal assignments; seed tells topics
// apart.
func (p *Placer) Place(partitions, replicationFactor int, seed uint64) ([][]int32, error) {
	alive, all := candidates(p.m, replicationFactor)
	switch {
	case replicationFactor < 1 || partitions < 0:
		return nil, fmt.Errorf("%w: %d", ErrTooFewBrokers, replicationFactor)
	case len(all) < replicationFactor:
		return nil, fmt.Errorf("%w: replication factor %d, %d brokers", ErrTooFewBrokers, replicationFactor, len(all))
	case len(alive) == 0:
		return nil, ErrNobodyLives
	}
	out := make([][]int32, partitions)
	for i := range out {
		tie := seed + uint64(i)*0x9e3779b97f4a7c15
		replicas := make([]int32, 0, replicationFactor)
		replicas = append(replicas, p.l.next(alive, nil, true, tie))
		for len(replicas) < replicationFactor {
			replicas = append(replicas, p.l.next(all, replicas, false, tie))
		}
		p.l.add(replicas)
		out[i] = replicas
	}
	return out, nil
}

// Move is a partition and who is to hold it.
type Move struct {
	TopicID   raft.UUID
	Topic     string
	Partition int32
	Replicas  []int32
	epoch     int32
}

func (v Move) reassignment() raft.Reassignment {
	return raft.Reassignment{TopicID: v.TopicID, Partition: v.Partition, Replicas: v.Replicas, PartitionEpoch: v.epoch}
}

// Commands turns moves into commands of a size that apply takes in its stride.
func Commands(moves []Move) []raft.Command {
	var out []raft.Command
	for chunk := range slices.Chunk(moves, 500) {
		var c raft.ReassignPartitions
		for _, v := range chunk {
			c.Partitions = append(c.Partitions, v.reassignment())
		}
		out = append(out, c)
	}
	return out
}

// Drain moves up to max replicas away from brokers that are drained. left is how many of their replicas have nowhere
// to go: there are not enough other brokers.
func Drain(m *raft.Image, most int) (moves []Move, left int) {
	drained := map[int32]bool{}
	for _, b := range m.SortedBrokers() {
		if b.Draining {
			drained[b.ID] = true
		}
	}
	if len(drained) == 0 {
		return nil, 0
	}
	var l *load
	for _, t := range m.SortedTopics() {
		for i, p := range t.Partitions {
			if p.Reassigning() || !slices.ContainsFunc(p.Replicas, func(id int32) bool { return drained[id] }) {
				continue
			}
			if len(moves) >= most {
				return moves, left
			}
			if l == nil {
				l = loadOf(m)
			}
			keep := slices.DeleteFunc(slices.Clone(p.Replicas), func(id int32) bool { return drained[id] })
			alive, all := candidates(m, 1)
			_ = alive
			to := slices.Clone(keep)
			for len(to) < len(p.Replicas) {
				id := l.next(all, to, len(to) == 0, uint64(i))
				if id == raft.NoBroker {
					break
				}
				to = append(to, id)
			}
			if len(to) < len(p.Replicas) {
				left++
				continue
			}
			l.add(to[len(keep):])
			moves = append(moves, Move{t.ID, t.Name, int32(i), to, p.PartitionEpoch})
		}
	}
	return moves, left
}

// Balance moves up to max replicas from the brokers that hold most to those that hold least, one broker of a partition
// at a time and never into fewer racks. No moves: it is balanced.
func Balance(m *raft.Image, most int) []Move {
	alive, _ := candidates(m, 1)
	if len(alive) < 2 {
		return nil
	}
	l := loadOf(m)
	var moves []Move
	moved := map[*raft.Partition]bool{}
	topics := m.SortedTopics()
	for len(moves) < most {
		by := slices.Clone(alive)
		slices.SortFunc(by, func(a, b int32) int { return cmp.Or(cmp.Compare(l.replicas[a], l.replicas[b]), cmp.Compare(a, b)) })
		v, p, ok := oneMove(l, topics, by, moved)
		if !ok {
			return moves
		}
		moved[p] = true
		moves = append(moves, v)
	}
	return moves
}

// oneMove finds a replica whose move narrows the gap between two brokers; by is sorted by load.
func oneMove(l *load, topics []*raft.Topic, by []int32, moved map[*raft.Partition]bool) (Move, *raft.Partition, bool) {
	for hi := len(by) - 1; hi > 0; hi-- {
		for lo := range hi {
			from, to := by[hi], by[lo]
			if l.replicas[from]-l.replicas[to] < 2 {
				break
			}
			for _, t := range topics {
				for i, p := range t.Partitions {
					at := slices.Index(p.Replicas, from)
					if at < 0 || moved[p] || p.Reassigning() || slices.Contains(p.Replicas, to) {
						continue
					}
					replicas := slices.Clone(p.Replicas)
					replicas[at] = to
					if l.spread(replicas) < l.spread(p.Replicas) {
						continue
					}
					l.replicas[from]--
					l.replicas[to]++
					return Move{t.ID, t.Name, int32(i), replicas, p.PartitionEpoch}, p, true
				}
			}
		}
	}
	return Move{}, nil, false
}

// spread is the number of racks.
func (l *load) spread(replicas []int32) int {
	racks := map[string]bool{}
	for _, id := range replicas {
		racks[l.racks[id]] = true
	}
	return len(racks)
}

// SetReplicationFactor gives every partition of the topics that many replicas: more by placement, fewer from the end.
func SetReplicationFactor(m *raft.Image, topics []string, replicationFactor int) ([]Move, error) {
	_, all := candidates(m, replicationFactor)
	if replicationFactor < 1 || len(all) < replicationFactor {
		return nil, fmt.Errorf("%w: replication factor %d, %d brokers", ErrTooFewBrokers, replicationFactor, len(all))
	}
	l := loadOf(m)
	var moves []Move
	for _, name := range topics {
		t := m.Topic(name)
		if t == nil {
			return nil, fmt.Errorf("%w: %s", raft.UnknownTopic, name)
		}
		for i, p := range t.Partitions {
			to := slices.Clone(target(p))
			if len(to) == replicationFactor {
				continue
			}
			if len(to) > replicationFactor {
				to = shrink(p, to, replicationFactor)
			}
			for len(to) < replicationFactor {
				id := l.next(all, to, false, uint64(i))
				if id == raft.NoBroker {
					return nil, ErrTooFewBrokers
				}
				l.add([]int32{id})
				l.leaders[id]-- // add counted a leader
				to = append(to, id)
			}
			moves = append(moves, Move{t.ID, t.Name, int32(i), to, p.PartitionEpoch})
		}
	}
	return moves, nil
}

// shrink keeps those in sync before those that are not, else in order of preference.
func shrink(p *raft.Partition, replicas []int32, n int) []int32 {
	var keep []int32
	for _, wantSync := range []bool{true, false} {
		for _, id := range replicas {
			if slices.Contains(p.ISR, id) == wantSync && len(keep) < n {
				keep = append(keep, id)
			}
		}
	}
	return keep
}

// LogEnd is what a replica has of a partition that lost everybody who was in sync.
type LogEnd struct {
	Broker int32
	Epoch  int32 // leader epoch of its last record
	End    int64
}

// Recover picks the replica with the greatest (epoch, end): the one to elect uncleanly. NoBroker if there is none.
func Recover(ends []LogEnd) int32 {
	best := LogEnd{Broker: raft.NoBroker, Epoch: -2}
	for _, e := range ends {
		if c := cmp.Or(cmp.Compare(e.Epoch, best.Epoch), cmp.Compare(e.End, best.End)); c > 0 || c == 0 && e.Broker < best.Broker {
			best = e
		}
	}
	return best.Broker
}
