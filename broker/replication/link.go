package replication

import (
	"context"
	"errors"
	"slices"
	"time"

	"millrace/raft/transport"
)

// patience is how long a socket may refuse bytes before the slabs under them are let go.
const patience = 100 * time.Millisecond

// errIdle ends a connection that has had no stream for a while.
var errIdle = errors.New("replication: no streams")

// link drives a Sender: it dials while streams are wanted, and runs a writer, a reader and the keep-alive of the
// connection.
type link struct {
	r     *Replication
	s     *Sender
	out   *outlet
	timer *time.Timer
}

func newLink(r *Replication, s *Sender) *link {
	l := &link{r: r, s: s, out: newOutlet(r, s), timer: stoppedTimer()}
	s.SetNotify(func() { wakeUp(l.out.notify) })
	r.outlets.change(func(all []*outlet) []*outlet { return append(all, l.out) })
	return l
}

func wakeUp(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it has been told
	}
}

func stoppedTimer() *time.Timer {
	t := time.NewTimer(time.Hour) //nolint:forbidigo // what it waits for is set by a step machine that was given the time
	t.Stop()
	return t
}

// wait returns at the notification, at a time (unless that is zero), or when one of the channels closes: then false.
func wait(r *Replication, notify <-chan struct{}, timer *time.Timer, at time.Time, closed <-chan struct{}) bool {
	var alarm <-chan time.Time
	if !at.IsZero() {
		d := at.Sub(r.o.Now())
		if d <= 0 {
			return true
		}
		timer.Reset(d)
		alarm = timer.C
		defer timer.Stop()
	}
	select {
	case <-notify:
	case <-alarm:
	case <-closed:
		return false
	case <-r.ctx.Done():
		return false
	}
	return true
}

// run connects, again and again, until Close.
func (l *link) run() {
	var next time.Duration
	for l.r.ctx.Err() == nil {
		if !l.s.Wanted() {
			if !l.out.wait(l.timer, time.Time{}, nil) {
				return
			}
			continue
		}
		conn, err := l.r.o.Dial(l.r.ctx, l.s.Peer(), l.s.Kind())
		if err == nil && conn.Peer().NodeID != l.s.Peer() {
			_ = conn.Close()
			err = transport.Refuse(transport.RefusedNode, "%s answered", conn.Peer())
		}
		if err == nil {
			began := l.r.o.Now()
			err = l.serve(conn)
			if l.r.o.Now().Sub(began) > backoffMax {
				next = 0 // it was good for a while
			}
		}
		if l.r.ctx.Err() != nil {
			return
		}
		if errors.Is(err, errIdle) {
			next = 0
			continue
		}
		if next == 0 {
			l.r.o.Logger.Warn("replication: no connection to a follower", "follower", l.s.Peer(), "kind", kindName(l.s.Kind()), "err", err)
		}
		var sleep time.Duration
		next, sleep = backoff(next)
		l.rest(sleep)
	}
}

// rest waits before the next attempt.
func (l *link) rest(d time.Duration) {
	l.timer.Reset(d)
	defer l.timer.Stop()
	select {
	case <-l.timer.C:
	case <-l.r.ctx.Done():
	}
}

func kindName(k transport.Kind) string {
	if k == KindCatchUp {
		return "catch-up"
	}
	return "tail"
}

// serve runs one connection to its end.
func (l *link) serve(conn *transport.Conn) error {
	stop := context.AfterFunc(l.r.ctx, func() { _ = conn.Close() })
	defer stop()
	l.out.open(conn)
	l.s.Connected(l.r.o.Now())
	read := make(chan error, 1)
	alive := make(chan struct{})
	go func() {
		defer close(alive)
		conn.KeepAlive(l.r.o.PingInterval, l.r.o.SilenceTimeout)
	}()
	go func() {
		err := l.read(conn)
		_ = conn.Close()
		read <- err
	}()
	err := l.write(conn)
	_ = conn.Close()
	if readErr := <-read; err == nil {
		err = readErr
	}
	<-alive
	l.out.close()
	l.s.Lost(l.r.o.Now())
	return err
}

func (l *link) read(conn *transport.Conn) error {
	var buf []byte
	for {
		kind, head, bulk, err := conn.ReadBulk(maxMessagesBytes, &buf)
		if err != nil {
			return err
		}
		if err := l.s.OnFrame(l.r.o.Now(), kind, head, bulk); err != nil {
			return err
		}
	}
}

// write sends what the sender has until the connection ends, or has had no stream for a while. Its error is nil when
// the reader knows better.
func (l *link) write(conn *transport.Conn) error {
	for {
		wrote, again, err := l.out.write()
		if err != nil {
			return err
		}
		if wrote {
			continue
		}
		now := l.r.o.Now()
		if l.s.Wanted() {
			l.out.used.Store(now.UnixNano())
		}
		idleAt := time.Unix(0, l.out.used.Load()).Add(l.r.o.IdleTimeout)
		if !idleAt.After(now) {
			return errIdle
		}
		if again.IsZero() || idleAt.Before(again) {
			again = idleAt
		}
		if !l.out.wait(l.timer, again, conn.Done()) {
			return nil
		}
	}
}

func writeFrame(conn *transport.Conn, f *Frame) error {
	if !f.Bulk {
		return conn.WriteFrame(f.Type, f.Head)
	}
	return conn.WriteBulk(f.Type, f.Head, &transport.Bulk{Pieces: f.Pieces, Patience: patience, Slow: f.Unpin})
}

// serve drives a Receiver: the follower's end of a connection.
func (r *Replication) serve(conn *transport.Conn) {
	done := make(chan struct{})
	defer close(done)
	if !r.spawn(func() { <-done }) { // Close waits for this handler, which the port runs
		return
	}
	stop := context.AfterFunc(r.ctx, func() { _ = conn.Close() })
	defer stop()
	v := r.Accept(conn.Peer().NodeID, conn.Kind())
	out := newOutlet(r, v)
	v.SetNotify(func() { wakeUp(out.notify) })
	out.open(conn)
	r.outlets.change(func(all []*outlet) []*outlet { return append(all, out) })
	wrote, alive := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(alive)
		conn.KeepAlive(r.o.PingInterval, r.o.SilenceTimeout)
	}()
	go func() {
		defer close(wrote)
		defer func() { _ = conn.Close() }()
		timer := stoppedTimer()
		for {
			some, again, err := out.write()
			if err != nil {
				return
			}
			if !some && !out.wait(timer, again, conn.Done()) {
				return
			}
		}
	}()
	var buf []byte
	for {
		kind, head, bulk, err := conn.ReadBulk(maxFrameBytes+maxMessagesBytes, &buf)
		if err == nil {
			err = v.OnFrame(r.o.Now(), kind, head, bulk)
		}
		if err != nil {
			if r.ctx.Err() == nil {
				r.o.Logger.Info("replication: a leader's connection ended", "leader", conn.Peer().NodeID, "kind", kindName(conn.Kind()), "err", err)
			}
			break
		}
	}
	_ = conn.Close()
	<-wrote
	<-alive
	r.outlets.change(func(all []*outlet) []*outlet {
		return slices.DeleteFunc(all, func(o *outlet) bool { return o == out })
	})
	out.close()
	v.Lost()
}
