package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"millrace/broker/wire"
	"millrace/netpoll"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// session is what the broker keeps for one connection. It lives on the
// connection's loop.
type session struct {
	conn *netpoll.Conn
	host string

	clientName, clientVersion string // KIP-511

	produce wire.ProduceReader
	fetch   wire.FetchReader
	parked  *produceRequest // waits for room in the engine; the connection is held
	holds   int             // reasons to deliver nothing more
	slow    int             // requests under way that wait, or work elsewhere
	fetches []*fetchRequest // those of them that are Fetches
}

// slowMax is how many requests of one connection may wait or be on a worker at a
// time. What they hold is not charged to the connection, so a client that sends
// thousands of them at once must not have thousands under way.
const slowMax = 8

// hold stops the connection's frames until letGo was called as often.
func (s *session) hold() {
	if s.holds++; s.holds == 1 {
		s.conn.Pause()
	}
}

func (s *session) letGo() {
	if s.holds--; s.holds == 0 {
		s.conn.Resume()
	}
}

// enterSlow counts a request that does not answer at once; leaveSlow is called when it
// has.
func (s *session) enterSlow() {
	if s.slow++; s.slow == slowMax {
		s.hold()
	}
}

func (s *session) leaveSlow() {
	if s.slow--; s.slow == slowMax-1 {
		s.letGo()
	}
}

// OnOpen implements netpoll.Handler.
func (b *Broker) OnOpen(c *netpoll.Conn) {
	c.Data = &session{conn: c, host: c.RemoteAddr().Addr().Unmap().String()}
}

// OnClose implements netpoll.Handler.
func (b *Broker) OnClose(c *netpoll.Conn, err error) {
	for _, r := range slices.Clone(c.Data.(*session).fetches) {
		r.giveUp()
	}
	b.log.Debug("connection closed", "remote", c.RemoteAddr(), "reason", err)
}

var errUnsupported = errors.New("unsupported request")

// OnFrame implements netpoll.Handler: header, dispatch.
func (b *Broker) OnFrame(c *netpoll.Conn, f netpoll.Frame) {
	s := c.Data.(*session)
	r := wire.NewReader(f.Data)
	h := wire.ReadHeaderStart(&r)
	if r.Err() != nil {
		f.Release()
		c.Close(fmt.Errorf("request header: %w", r.Err()))
		return
	}
	row := lookup(h.Key)
	if row == nil || h.Version < row.min || h.Version > row.max {
		if h.Key == 18 {
			b.apiVersionsUnknown(c, h.CorrelationID)
			f.Release()
			return
		}
		f.Release()
		// Kafka closes the connection too: without knowing the version there is
		// no form in which an answer could be written.
		c.Close(fmt.Errorf("%w: api key %d version %d from %s", errUnsupported, h.Key, h.Version, s.host))
		return
	}
	flexible := h.Version >= row.flexible
	r.Tags(flexible, nil)
	if row.raw != nil {
		row.raw(b, s, f, r.Rest(), h.Version, h.CorrelationID)
		return
	}
	b.handleDecoded(s, row, f, &r, h, flexible)
}

// handleDecoded decodes a request with kmsg and runs its handler.
func (b *Broker) handleDecoded(s *session, row *api, f netpoll.Frame, r *wire.Reader, h wire.RequestHeader, flexible bool) {
	req := kmsg.RequestForKey(h.Key)
	req.SetVersion(h.Version)
	err := row.shapes[h.Version-row.min].check(r.Rest(), flexible)
	if err == nil {
		err = req.ReadFrom(r.Rest())
	}
	rc := &requestContext{ClientID: string(h.ClientID), ClientHost: "/" + s.host, Principal: "User:ANONYMOUS", Version: h.Version}
	f.Release()
	if err != nil {
		s.conn.Close(fmt.Errorf("%s version %d: %w", kmsg.NameForKey(h.Key), h.Version, err))
		return
	}
	// The response header of ApiVersions is always version 0 (KIP-511): the
	// client does not know yet what the broker speaks.
	c := &call{conn: s.conn, slot: s.conn.Begin(), corr: h.CorrelationID, version: h.Version, tagged: flexible && h.Key != 18}
	b.requests[h.Key].Add(1)
	if row.inline != nil {
		row.inline(b, rc, c, req)
		return
	}
	s.enterSlow()
	c.done = s.leaveSlow
	b.workers.Go(func(ctx context.Context) { c.respond(row.blocking(b, ctx, rc, req)) })
}
