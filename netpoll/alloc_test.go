//go:build !race

package netpoll

import (
	"io"
	"net"
	"testing"
	"time"
)

// later answers with memory of its own from a posted task, the way a durable
// write is acknowledged.
type later struct {
	conn  *Conn
	slot  Slot
	frame Frame
}

func (d *later) Run() {
	r := d.conn.Loop().NewResponse()
	r.Append(d.frame.Data[:8])
	r.AppendMem(d.frame.Data, d)
	d.conn.Reply(d.slot, r)
}

func (d *later) Release() {
	d.frame.Release()
	d.frame = Frame{}
}

type timeout struct{}

func (timeout) Run() {}

func TestRequestsAllocateNothing(t *testing.T) {
	var d later
	_, addr := serve(t, Options{}, &hooks{frame: func(c *Conn, f Frame) {
		d = later{conn: c, slot: c.Begin(), frame: f}
		c.Loop().After(time.Hour, timeout{}).Stop()
		c.Loop().Post(&d)
	}})
	for _, size := range []int{8, 256, 100 << 10, 1 << 20} {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		request := framed(make([]byte, size))
		answer := make([]byte, sizeBytes+8+size)
		roundTrip := func() {
			if _, err := conn.Write(request); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(conn, answer); err != nil {
				t.Fatal(err)
			}
		}
		for range 50 {
			roundTrip()
		}
		if n := testing.AllocsPerRun(200, roundTrip); n > 0 {
			t.Errorf("a request of %d bytes allocates %.2f times", size, n)
		}
	}
}
