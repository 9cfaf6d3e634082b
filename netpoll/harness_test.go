package netpoll

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var seedFlag = flag.Uint64("seed", 0, "seed of the random tests (0: by the clock)")

// newRand returns a random source whose seed is printed when the test fails.
func newRand(t testing.TB) *rand.Rand {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("repeat with: go test ./netpoll -run '^%s$' -seed %d", t.Name(), seed)
		}
	})
	return rand.New(rand.NewPCG(seed, 1))
}

// hooks is a Handler made of functions; nil ones do nothing.
type hooks struct {
	open  func(*Conn)
	frame func(*Conn, Frame)
	close func(*Conn, error)
}

func (h *hooks) OnOpen(c *Conn) {
	if h.open != nil {
		h.open(c)
	}
}

func (h *hooks) OnFrame(c *Conn, f Frame) {
	if h.frame != nil {
		h.frame(c, f)
	} else {
		f.Release()
	}
}

func (h *hooks) OnClose(c *Conn, err error) {
	if h.close != nil {
		h.close(c, err)
	}
}

// echo answers every frame with its own bytes, at once.
func echo(c *Conn, f Frame) {
	r := c.Loop().NewResponse()
	r.Append(f.Data)
	c.Reply(c.Begin(), r)
	f.Release()
}

// serve starts a server on a loopback port and ends it with the test.
func serve(t testing.TB, o Options, h Handler) (*Server, string) {
	t.Helper()
	s := newServer(t, o, h)
	addr, err := s.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	return s, addr.String()
}

func newServer(t testing.TB, o Options, h Handler) *Server {
	t.Helper()
	s, err := New(o, h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = s.Shutdown(ctx)
		if n := s.Stats().Conns; n != 0 {
			t.Errorf("%d connections are left after Shutdown", n)
		}
		if !t.Failed() {
			if used := s.memory.used.Load(); used != 0 {
				t.Errorf("%d bytes of the budget are still charged after Shutdown", used)
			}
		}
	})
	return s
}

// client is one end of a connection, seen from outside.
type client struct {
	t    testing.TB
	conn net.Conn
	in   *bufio.Reader
	head [4]byte
}

func dial(t testing.TB, addr string) *client {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &client{t: t, conn: conn, in: bufio.NewReader(conn)}
}

// framed puts the size before a payload.
func framed(payload []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(payload))), payload...)
}

func (c *client) send(b []byte) {
	c.t.Helper()
	if _, err := c.conn.Write(b); err != nil {
		c.t.Fatalf("send: %v", err)
	}
}

func (c *client) receive() []byte {
	c.t.Helper()
	b, err := c.tryReceive(10 * time.Second)
	if err != nil {
		c.t.Fatalf("receive: %v", err)
	}
	return b
}

func (c *client) tryReceive(timeout time.Duration) ([]byte, error) {
	_ = c.conn.SetReadDeadline(time.Now().Add(timeout))
	if _, err := io.ReadFull(c.in, c.head[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint32(c.head[:]))
	_, err := io.ReadFull(c.in, b)
	return b, err
}

// closedWithin waits for the server to close the connection.
func (c *client) closedWithin(timeout time.Duration) bool {
	_ = c.conn.SetReadDeadline(time.Now().Add(timeout))
	_, err := io.Copy(io.Discard, c.in)
	return !errors.Is(err, os.ErrDeadlineExceeded)
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("not in 10 s: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// owner counts how often it was released.
type owner struct{ released atomic.Int32 }

func (o *owner) Release() { o.released.Add(1) }

// owners hands out owners and checks them in the end.
type owners struct {
	mu  sync.Mutex
	all []*owner
}

func (o *owners) new() *owner {
	o.mu.Lock()
	defer o.mu.Unlock()
	w := new(owner)
	o.all = append(o.all, w)
	return w
}

// check fails unless each owner was released exactly once.
func (o *owners) check(t testing.TB) {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	for i, w := range o.all {
		if n := w.released.Load(); n != 1 {
			t.Fatalf("owner %d of %d was released %d times", i, len(o.all), n)
		}
	}
}

// closeReasons records why connections were closed.
type closeReasons struct {
	mu  sync.Mutex
	all []error
}

func (r *closeReasons) add(_ *Conn, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, err)
}

func (r *closeReasons) wait(t testing.TB, n int) []error {
	t.Helper()
	eventually(t, "connections closed", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.all) >= n
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]error(nil), r.all...)
}
