package transport

import (
	"context"
	"fmt"

	"github.com/lni/dragonboat/v4/raftio"
	pb "github.com/lni/dragonboat/v4/raftpb"
)

// GetSnapshotConnection dials: a snapshot that cannot be sent now is sent later by raft.
func (r *raftTransport) GetSnapshotConnection(ctx context.Context, target string) (raftio.ISnapshotConnection, error) {
	id, err := ParseReplicaName(target)
	if err != nil {
		return nil, err
	}
	to, ok := r.t.o.Resolve(id)
	if !ok {
		return nil, fmt.Errorf("%w for %s", errUnresolved, target)
	}
	c, err := r.t.Dial(ctx, to, KindSnapshot)
	if err != nil {
		return nil, err
	}
	go c.KeepAlive(r.t.o.PingInterval, r.t.o.SilenceTimeout)
	s := &snapshotConn{c: c, done: make(chan struct{})}
	go s.await()
	return s, nil
}

// snapshotConn sends one snapshot. The peer acknowledges the last chunk, so that Close does not cut it off.
type snapshotConn struct {
	c    *Conn
	done chan struct{}
}

func (s *snapshotConn) await() {
	defer close(s.done)
	_, _, err := s.c.ReadFrame(0) // the acknowledgement, or the end
	if err != nil {
		s.c.close(err)
	}
}

// SendChunk blocks for as long as the peer and its disk take, within the write deadline of a frame.
func (s *snapshotConn) SendChunk(chunk pb.Chunk) error {
	b, err := chunk.Marshal()
	if err != nil {
		return err
	}
	if len(b) > maxChunkBytes {
		return fmt.Errorf("%w: a snapshot chunk of %d bytes", ErrFrameTooLarge, len(b))
	}
	if err := s.c.WriteFrame(snapshotChunk, b); err != nil {
		return err
	}
	if !chunk.IsLastChunk() {
		return nil
	}
	select {
	case <-s.done:
		select {
		case <-s.c.closed:
			return fmt.Errorf("transport: snapshot was not taken: %w", s.c.reason)
		default:
			return nil
		}
	case <-s.c.closed:
		return fmt.Errorf("transport: snapshot was not taken: %w", s.c.reason)
	}
}

func (s *snapshotConn) Close() { _ = s.c.Close() }

// receiveSnapshot is the handler of KindSnapshot.
func (r *raftTransport) receiveSnapshot(c *Conn) {
	select {
	case r.receiving <- struct{}{}:
		defer func() { <-r.receiving }()
	default:
		r.t.o.Logger.Warn("snapshot refused: others are under way", "from", c.Peer().String())
		return
	}
	go c.KeepAlive(r.t.o.PingInterval, r.t.o.SilenceTimeout)
	total := int64(0)
	for {
		kind, b, err := c.ReadFrame(maxChunkBytes)
		if err != nil {
			r.report(c, err)
			return
		}
		if kind != snapshotChunk {
			r.report(c, ErrFrameMagic)
			return
		}
		if total += int64(len(b)); total > r.t.o.MaxSnapshotBytes {
			r.report(c, fmt.Errorf("%w: a snapshot of more than %d bytes", ErrFrameTooLarge, r.t.o.MaxSnapshotBytes))
			return
		}
		chunk, err := r.rules.chunk(b, c.Peer().ReplicaID)
		if err != nil {
			r.report(c, err)
			return
		}
		if !r.onChunk(*chunk) {
			return
		}
		if chunk.IsLastChunk() {
			_ = c.WriteFrame(snapshotChunk)
			<-c.closed // the sender hangs up, or falls silent
			return
		}
	}
}
