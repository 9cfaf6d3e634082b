package netpoll

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// The payload of a request to the twins: a kind, a seed, filler. The answer is
// made from it by answer, whatever way it is put together and whenever.
const (
	kindOwn = iota
	kindMem
	kindFile
	kindMixed
	kindSilent // no answer
	kindCount
)

// library is a file whose bytes answers are made of, and the same in memory.
type library struct {
	file *os.File
	data []byte
}

func newLibrary(t testing.TB, n int) *library {
	data := make([]byte, n)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	name := filepath.Join(t.TempDir(), "library")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return &library{file: f, data: data}
}

// piece is a range of the library that an answer contains.
type piece struct{ from, to int }

func pieces(request []byte, size int) []piece {
	r := rand.New(rand.NewPCG(uint64(binary.BigEndian.Uint32(request[1:])), uint64(len(request))))
	limit := 200
	if r.IntN(8) == 0 {
		limit = size
	}
	out := make([]piece, 1+r.IntN(5))
	for i := range out {
		from := r.IntN(size)
		out[i] = piece{from, from + r.IntN(min(limit, size-from)+1)}
	}
	return out
}

// answerOf is what the dumb twin sends: the request, then the pieces.
func (l *library) answerOf(request []byte) []byte {
	if request[0] == kindSilent {
		return nil
	}
	out := bytes.Clone(request)
	for _, p := range pieces(request, len(l.data)) {
		out = append(out, l.data[p.from:p.to]...)
	}
	return framed(out)
}

// build makes the same as parts.
func (l *library) build(r *Response, request []byte, own *owners) {
	r.Append(request)
	for i, p := range pieces(request, len(l.data)) {
		switch {
		case request[0] == kindMem || request[0] == kindMixed && i%3 == 0:
			r.AppendMem(l.data[p.from:p.to], own.new())
		case request[0] == kindFile || request[0] == kindMixed && i%3 == 1:
			r.AppendFile(int(l.file.Fd()), int64(p.from), p.to-p.from, own.new())
		case i%2 == 0:
			copy(r.Grow(p.to-p.from), l.data[p.from:p.to])
		default:
			r.Commit(append(r.Buffer(), l.data[p.from:p.to]...))
		}
	}
}

// late answers a request on the loop some time after it came.
type late struct {
	lib   *library
	own   *owners
	conn  *Conn
	slot  Slot
	frame Frame
	under *atomic.Int32
}

func (d *late) Run() {
	defer d.under.Add(-1)
	defer d.frame.Release()
	if d.frame.Data[0] == kindSilent {
		d.conn.Skip(d.slot)
		return
	}
	r := d.conn.Loop().NewResponse()
	d.lib.build(r, d.frame.Data, d.own)
	d.conn.Reply(d.slot, r)
}

// TestServerAnswersLikeItsDumbTwin sends random pipelined requests in random
// fragments to the server, which answers them in random order from random parts,
// and to a twin that reads one request, writes one answer and so on.
func TestServerAnswersLikeItsDumbTwin(t *testing.T) {
	for _, o := range []Options{
		{Loops: 1},
		{Loops: 3, MaxInflight: 3, ConnMemory: 100 << 10, PinTimeout: -1},
		{Loops: 2, MaxInflight: 1000, PinTimeout: time.Millisecond},
	} {
		rng := newRand(t)
		lib := newLibrary(t, 1<<20)
		own := new(owners)
		var mu sync.Mutex
		var under atomic.Int32
		delays := rand.New(rand.NewPCG(rng.Uint64(), 3))
		h := &hooks{frame: func(c *Conn, f Frame) {
			d := &late{lib: lib, own: own, conn: c, slot: c.Begin(), frame: f, under: &under}
			under.Add(1)
			mu.Lock()
			how, wait := delays.IntN(4), time.Duration(delays.IntN(3000))*time.Microsecond
			mu.Unlock()
			switch how {
			case 0:
				d.Run()
			case 1:
				c.Loop().Post(d)
			case 2:
				c.Loop().After(wait, d)
			case 3:
				time.AfterFunc(wait, func() { c.Loop().Post(d) })
			}
		}}
		o.ConnMemory = max(o.ConnMemory, 64<<20)
		s, addr := serve(t, o, h)
		var wg sync.WaitGroup
		for range 12 {
			script := script(rng)
			fragments := rand.New(rand.NewPCG(rng.Uint64(), 4))
			wg.Go(func() {
				var want, all []byte
				for _, request := range script {
					all = append(all, framed(request)...)
					want = append(want, lib.answerOf(request)...)
				}
				got, err := talk(addr, all, len(want), fragments)
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%d requests: got %d bytes, the twin %d; %v", len(script), len(got), len(want), err)
				}
			})
		}
		wg.Wait()
		eventually(t, "every request was worked on", func() bool { return under.Load() == 0 })
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		cancel()
		own.check(t)
	}
}

// script is a list of random requests of very different sizes.
func script(rng *rand.Rand) [][]byte {
	out := make([][]byte, 1+rng.IntN(60))
	for i := range out {
		size := 5 + rng.IntN(300)
		switch rng.IntN(20) {
		case 0:
			size = 5 + rng.IntN(2<<20)
		case 1, 2:
			size = 5 + rng.IntN(100<<10)
		}
		out[i] = make([]byte, size)
		for j := 0; j < size; j += 61 {
			out[i][j] = byte(rng.Uint32())
		}
		out[i][0] = byte(rng.IntN(kindCount))
	}
	return out
}

// talk sends all in fragments while it reads n bytes of answers.
func talk(addr string, all []byte, n int, rng *rand.Rand) ([]byte, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	go func() {
		limit := max([]int{3, 100, 70_000, 1 << 20}[rng.IntN(4)], len(all)/1000)
		for len(all) > 0 {
			k := min(1+rng.IntN(limit), len(all))
			if _, err := conn.Write(all[:k]); err != nil {
				return
			}
			all = all[k:]
			if rng.IntN(8) == 0 {
				time.Sleep(time.Duration(rng.IntN(500)) * time.Microsecond)
			}
		}
	}()
	got := make([]byte, n)
	_ = conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	k, err := io.ReadFull(bufio.NewReader(conn), got)
	return got[:k], err
}
