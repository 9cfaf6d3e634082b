package broker

import (
	"context"
	"sync"

	"millrace/broker/wire"
	"millrace/netpoll"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// requestContext is what a handler may know of who is asking.
type requestContext struct {
	ClientID   string
	ClientHost string
	Principal  string
	Version    int16
}

// call is one request that kmsg decodes: where its answer goes. It is posted
// to the connection's loop with the answer already encoded.
type call struct {
	conn    *netpoll.Conn
	slot    netpoll.Slot
	corr    int32
	version int16
	tagged  bool   // response header version 1
	done    func() // runs on the loop after the answer was handed over; nil: nothing
	body    []byte
}

// respond encodes r and sends it in the request's place. Any goroutine may
// call it, once.
func (c *call) respond(r kmsg.Response) {
	r.SetVersion(c.version)
	b := wire.AppendResponseHeader(make([]byte, 0, 256), c.corr, c.tagged)
	c.body = r.AppendTo(b)
	c.conn.Loop().Post(c)
}

// Run implements netpoll.Task: on the connection's loop.
func (c *call) Run() {
	resp := c.conn.Loop().NewResponse()
	resp.Append(c.body)
	c.conn.Reply(c.slot, resp)
	if c.done != nil {
		c.done()
	}
}

// workers runs what may block, a bounded number at a time. The queue is bounded
// by the connections: each has a bounded number of requests under way.
type workers struct {
	ctx   context.Context
	slots chan struct{}
	wg    sync.WaitGroup
}

func newWorkers(ctx context.Context, limit int) *workers {
	return &workers{ctx: ctx, slots: make(chan struct{}, limit)}
}

// Go runs f on a goroutine of its own as soon as there is room.
func (w *workers) Go(f func(context.Context)) {
	w.wg.Add(1)
	go func() {
		defer w.wg.Done()
		w.slots <- struct{}{}
		defer func() { <-w.slots }()
		f(w.ctx)
	}()
}

// Wait returns when everything started has ended.
func (w *workers) Wait() { w.wg.Wait() }
