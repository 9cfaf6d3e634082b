package transport

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/lni/dragonboat/v4/raftio"
	pb "github.com/lni/dragonboat/v4/raftpb"
)

// ErrImpossible is wrapped by everything that no replica would send. Dragonboat ends the process on most of it.
var ErrImpossible = errors.New("transport: impossible raft message")

// rules are what messages to this replica have in common.
type rules struct {
	shard, self, deployment uint64
}

// travels tells the types that replicas send to each other from those that are dragonboat's own business, and from
// snapshots, which have their own stream.
var travels = map[pb.MessageType]bool{
	pb.NoOP: true, pb.Ping: true, pb.Pong: true, pb.Propose: true, pb.Replicate: true, pb.ReplicateResp: true,
	pb.RequestVote: true, pb.RequestVoteResp: true, pb.Heartbeat: true, pb.HeartbeatResp: true, pb.ReadIndex: true,
	pb.ReadIndexResp: true, pb.SnapshotReceived: true, pb.LeaderTransfer: true, pb.TimeoutNow: true, pb.RateLimit: true,
	pb.RequestPreVote: true, pb.RequestPreVoteResp: true,
}

// hasTerm are the types that carry their sender's term.
var hasTerm = map[pb.MessageType]bool{
	pb.Replicate: true, pb.ReplicateResp: true, pb.RequestVote: true, pb.RequestVoteResp: true, pb.Heartbeat: true,
	pb.HeartbeatResp: true, pb.RequestPreVote: true, pb.RequestPreVoteResp: true, pb.TimeoutNow: true,
}

// batch decodes a frame of KindRaft that came from a replica, and refuses what cannot be.
func (r rules) batch(b []byte, from uint64) (batch *pb.MessageBatch, err error) {
	defer func() {
		if p := recover(); p != nil { // the generated decoder trusts some lengths
			batch, err = nil, fmt.Errorf("%w: %v", ErrImpossible, p)
		}
	}()
	if err := scanBatch(b); err != nil {
		return nil, err
	}
	batch = &pb.MessageBatch{}
	if err := batch.Unmarshal(b); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrImpossible, err)
	}
	switch {
	case batch.DeploymentId != r.deployment, batch.BinVer != raftio.TransportBinVersion:
		return nil, fmt.Errorf("%w: deployment %d, version %d", ErrImpossible, batch.DeploymentId, batch.BinVer)
	case batch.SourceAddress != ReplicaName(from):
		return nil, fmt.Errorf("%w: replica %d calls itself %q", ErrImpossible, from, batch.SourceAddress)
	}
	for i := range batch.Requests {
		if err := r.message(&batch.Requests[i], from); err != nil {
			return nil, err
		}
	}
	return batch, nil
}

func (r rules) message(m *pb.Message, from uint64) error {
	switch {
	case !travels[m.Type]:
		return fmt.Errorf("%w: type %d", ErrImpossible, m.Type)
	case m.From != from:
		return fmt.Errorf("%w: %s from %d on the connection of %d", ErrImpossible, m.Type, m.From, from)
	case m.To != r.self || m.ShardID != r.shard:
		return fmt.Errorf("%w: %s for replica %d of shard %d", ErrImpossible, m.Type, m.To, m.ShardID)
	case hasTerm[m.Type] && m.Term == 0:
		return fmt.Errorf("%w: %s of term 0", ErrImpossible, m.Type)
	case m.Snapshot.Index != 0 || m.Snapshot.Filepath != "" || len(m.Snapshot.Files) > 0 || len(m.Snapshot.Membership.Addresses) > 0:
		return fmt.Errorf("%w: %s with a snapshot", ErrImpossible, m.Type)
	case len(m.Entries) > 0 && m.Type != pb.Replicate && m.Type != pb.Propose:
		return fmt.Errorf("%w: %s with entries", ErrImpossible, m.Type)
	}
	term := m.LogTerm
	for i := range m.Entries {
		e := &m.Entries[i]
		if m.Type == pb.Replicate {
			if e.Index != m.LogIndex+1+uint64(i) || e.Term == 0 || e.Term < term || e.Term > m.Term {
				return fmt.Errorf("%w: entry %d of term %d after (%d, %d)", ErrImpossible, e.Index, e.Term, m.LogIndex, term)
			}
			term = e.Term
		}
		if err := entry(e); err != nil {
			return err
		}
	}
	return nil
}

func entry(e *pb.Entry) error {
	switch e.Type {
	case pb.ApplicationEntry, pb.EncodedEntry, pb.MetadataEntry:
		return nil
	case pb.ConfigChangeEntry:
		var cc pb.ConfigChange
		if err := cc.Unmarshal(e.Cmd); err != nil {
			return fmt.Errorf("%w: membership change: %w", ErrImpossible, err)
		}
		known := cc.Type == pb.AddNode || cc.Type == pb.RemoveNode || cc.Type == pb.AddNonVoting
		if !known || cc.ReplicaID == 0 {
			return fmt.Errorf("%w: membership change %d of replica %d", ErrImpossible, cc.Type, cc.ReplicaID)
		}
		if _, err := ParseReplicaName(cc.Address); err != nil && cc.Type != pb.RemoveNode {
			return fmt.Errorf("%w: membership change: %w", ErrImpossible, err)
		}
		return nil
	default:
		return fmt.Errorf("%w: entry of type %d", ErrImpossible, e.Type)
	}
}

// chunk decodes a frame of KindSnapshot and refuses what cannot be.
func (r rules) chunk(b []byte, from uint64) (c *pb.Chunk, err error) {
	defer func() {
		if p := recover(); p != nil {
			c, err = nil, fmt.Errorf("%w: %v", ErrImpossible, p)
		}
	}()
	c = &pb.Chunk{}
	if err := c.Unmarshal(b); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrImpossible, err)
	}
	base := baseName(c.Filepath)
	switch {
	case c.ShardID != r.shard, c.ReplicaID != r.self, c.From != from, c.DeploymentId != r.deployment, c.BinVer != raftio.TransportBinVersion:
		return nil, fmt.Errorf("%w: chunk from %d for replica %d of shard %d", ErrImpossible, c.From, c.ReplicaID, c.ShardID)
	case c.Index == 0 || c.Term == 0:
		return nil, fmt.Errorf("%w: snapshot of (%d, %d)", ErrImpossible, c.Index, c.Term)
	case c.Witness || c.HasFileInfo || c.OnDiskIndex != 0:
		return nil, fmt.Errorf("%w: snapshot of another kind of state machine", ErrImpossible)
	case base == "" || base == "." || base == ".." || len(base) > 255:
		return nil, fmt.Errorf("%w: snapshot file %q", ErrImpossible, c.Filepath)
	case c.ChunkCount == 0 || c.ChunkId >= c.ChunkCount || c.FileChunkCount != c.ChunkCount || c.FileChunkId != c.ChunkId:
		return nil, fmt.Errorf("%w: chunk %d of %d", ErrImpossible, c.ChunkId, c.ChunkCount)
	case uint64(len(c.Data)) != c.ChunkSize || len(c.Data) == 0:
		return nil, fmt.Errorf("%w: chunk of %d bytes holds %d", ErrImpossible, c.ChunkSize, len(c.Data))
	case len(c.Membership.Addresses) == 0 || len(c.Membership.Witnesses) > 0:
		return nil, fmt.Errorf("%w: snapshot without members", ErrImpossible)
	}
	for _, members := range []map[uint64]string{c.Membership.Addresses, c.Membership.NonVotings} {
		for id, name := range members {
			if n, err := ParseReplicaName(name); err != nil || n != id {
				return nil, fmt.Errorf("%w: member %d is called %q", ErrImpossible, id, name)
			}
		}
	}
	return c, nil
}

func baseName(path string) string {
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] == '/' {
			return path[i+1:]
		}
	}
	return path
}

// Least sizes of what a replica encodes: every field is always there. They keep a frame full of empty messages from
// becoming gigabytes of structs.
const (
	fieldRequests = 1
	fieldEntries  = 11
	fieldSnapshot = 12
)

var (
	minMessage = (&pb.Message{}).Size()
	minEntry   = (&pb.Entry{}).Size()
	// noSnapshot is generous: an empty snapshot's size depends on nothing.
	noSnapshot = (&pb.Snapshot{}).Size() + 16
)

// scanBatch walks the bytes of a batch without decoding them.
func scanBatch(b []byte) error {
	return fields(b, func(number uint64, message []byte) error {
		if number != fieldRequests {
			return nil
		}
		if len(message) < minMessage {
			return fmt.Errorf("%w: message of %d bytes", ErrImpossible, len(message))
		}
		return fields(message, func(number uint64, v []byte) error {
			switch {
			case number == fieldEntries && len(v) < minEntry:
				return fmt.Errorf("%w: entry of %d bytes", ErrImpossible, len(v))
			case number == fieldSnapshot && len(v) > noSnapshot:
				return fmt.Errorf("%w: message with a snapshot", ErrImpossible)
			}
			return nil
		})
	})
}

// fields calls f for every length-delimited field of a protobuf message and steps over numbers.
func fields(b []byte, f func(number uint64, value []byte) error) error {
	for len(b) > 0 {
		tag, n := binary.Uvarint(b)
		if n <= 0 {
			return fmt.Errorf("%w: tag", ErrImpossible)
		}
		b = b[n:]
		v, n := binary.Uvarint(b)
		if n <= 0 {
			return fmt.Errorf("%w: value", ErrImpossible)
		}
		b = b[n:]
		switch tag & 7 {
		case 0:
		case 2:
			if v > uint64(len(b)) {
				return fmt.Errorf("%w: length", ErrImpossible)
			}
			if err := f(tag>>3, b[:v]); err != nil {
				return err
			}
			b = b[v:]
		default:
			return fmt.Errorf("%w: wire type %d", ErrImpossible, tag&7)
		}
	}
	return nil
}
