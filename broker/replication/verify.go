package replication

import (
	"errors"
	"fmt"

	"millrace/engine"
	"millrace/engine/batch"
)

// verify ends a stream whose follower got corrupt batches, and reads the leader's own copy of what was under way.
func (s *Sender) verify(o *outflow) {
	from, to, l := o.received, o.next, o.p.Log()
	s.close(o)
	s.rest(o, verifying)
	s.n.o.Aside(func() {
		o.verified = verifyLog(l, from, to)
		o.tell(newsVerified)
	})
}

// onVerified goes on after the leader's own copy was read.
func (s *Sender) onVerified(o *outflow) {
	err := o.verified
	o.verified = nil
	var damage *engine.CorruptionError
	switch {
	case errors.As(err, &damage):
		s.rest(o, parked) // Resign follows
		o.p.Damaged(err)
	case err != nil:
		s.backOff(o, fmt.Errorf("read again what a follower found corrupt: %w", err))
	default:
		if o.corrupt++; o.corrupt > maxResends {
			s.backOff(o, fmt.Errorf("the follower has got corrupt batches %d times, this broker's own are good", o.corrupt))
			return
		}
		o.mistrust = true // under the frame's checksum: what the wire does to it ends the connection
		if !s.connected {
			s.rest(o, idle)
			return
		}
		s.open(o)
	}
}

// verifyLog reads [from, to) of a log and checks every batch. It blocks on files.
func verifyLog(l *engine.Log, from, to int64) error {
	var spans []engine.Span
	var buf []byte
	for from < to {
		from = max(from, l.LogStartOffset())
		var info engine.ReadInfo
		var err error
		spans, info, err = l.Read(engine.ReadRequest{Offset: from, UpTo: to, MaxBytes: frameBytes, MinOne: true, MayBlock: true}, spans[:0])
		if err != nil {
			return err
		}
		if len(spans) == 0 {
			return nil
		}
		if buf, err = take(buf[:0], spans); err != nil {
			return err
		}
		for rest := buf; len(rest) > 0; {
			n, err := batch.PeekSize(rest)
			if err == nil && n > len(rest) {
				err = batch.ErrShort
			}
			if err == nil {
				_, err = batch.Validate(rest[:n])
			}
			if err != nil {
				return &engine.CorruptionError{File: l.String(), Pos: -1, Reason: fmt.Sprintf("a batch at or above offset %d: %v", from, err)}
			}
			rest = rest[n:]
		}
		from = info.NextOffset
	}
	return nil
}
