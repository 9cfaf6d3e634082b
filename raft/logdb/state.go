package logdb

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	pb "github.com/lni/dragonboat/v4/raftpb"
)

// nodeID names one raft replica in this store.
type nodeID struct{ shard, replica uint64 }

// FileSum is size and CRC-32C of a snapshot file.
type FileSum struct {
	Size uint64
	CRC  uint32
}

type savedSnapshot struct {
	meta pb.Snapshot
	sum  FileSum
}

// state is all that the journal says, in memory. It is small: snapshots every few thousand entries
// keep it so. DB.mu guards it.
type state struct {
	nodes map[nodeID]*node
}

// node is one replica. entries are consecutive; the first is removedTo+1 unless the log begins behind
// an installed snapshot.
type node struct {
	bootstrap *pb.Bootstrap
	state     pb.State
	snapshot  savedSnapshot
	entries   []pb.Entry
	removedTo uint64
}

func newState() *state { return &state{nodes: map[nodeID]*node{}} }

// node returns the replica's state, making an empty one.
func (s *state) node(id nodeID) *node {
	n := s.nodes[id]
	if n == nil {
		n = &node{}
		s.nodes[id] = n
	}
	return n
}

func (s *state) sortedIDs() []nodeID {
	ids := make([]nodeID, 0, len(s.nodes))
	for id := range s.nodes {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b nodeID) int {
		return cmp.Or(cmp.Compare(a.shard, b.shard), cmp.Compare(a.replica, b.replica))
	})
	return ids
}

// lastIndex is that of the newest entry, or of the snapshot if there is none behind it.
func (n *node) lastIndex() uint64 {
	if k := len(n.entries); k > 0 {
		return n.entries[k-1].Index
	}
	return n.snapshot.meta.Index
}

// appendEntry adds an entry, dropping those that it overrules.
func (n *node) appendEntry(e pb.Entry) error {
	if k := len(n.entries); k > 0 {
		first, last := n.entries[0].Index, n.entries[k-1].Index
		switch {
		case e.Index == last+1:
		case e.Index > last+1:
			return fmt.Errorf("entry %d after %d: a gap", e.Index, last)
		case e.Index < first:
			n.entries = nil
		default:
			n.entries = n.entries[:e.Index-first]
		}
	}
	n.entries = append(n.entries, e)
	return nil
}

func (n *node) removeTo(index uint64) {
	n.removedTo = max(n.removedTo, index)
	k := 0
	for k < len(n.entries) && n.entries[k].Index <= index {
		k++
	}
	if k > 0 {
		n.entries = slices.Clone(n.entries[k:]) // the old array held the removed ones in memory
	}
}

// entriesFrom returns the entries [low, high) that are there, as a part of n.entries.
func (n *node) entriesFrom(low, high uint64) []pb.Entry {
	if len(n.entries) == 0 || low <= n.removedTo || low < n.entries[0].Index || high <= low {
		return nil
	}
	first := n.entries[0].Index
	if low-first >= uint64(len(n.entries)) {
		return nil
	}
	return n.entries[low-first : min(high-first, uint64(len(n.entries)))]
}

// records encodes the whole state as payloads of at most about limit bytes each.
func (s *state) records(limit int) [][]byte {
	var out [][]byte
	var b []byte
	cut := func() {
		if len(b) >= limit {
			out, b = append(out, b), nil
		}
	}
	for _, id := range s.sortedIDs() {
		n := s.nodes[id]
		if n.bootstrap != nil {
			b = appendMessage(b, recordBootstrap, id, nil, n.bootstrap)
		}
		if !pb.IsEmptyState(n.state) {
			b = appendMessage(b, recordState, id, nil, &n.state)
		}
		if n.removedTo > 0 {
			b = appendRecord(b, recordRemovedTo, id, binary.AppendUvarint(nil, n.removedTo))
		}
		if n.snapshot.meta.Index > 0 {
			b = appendSnapshot(b, recordSnapshot, id, n.snapshot)
		}
		for i := range n.entries {
			b = appendMessage(b, recordEntry, id, nil, &n.entries[i])
			cut()
		}
		cut()
	}
	if len(b) > 0 || len(out) == 0 {
		out = append(out, b)
	}
	return out
}
