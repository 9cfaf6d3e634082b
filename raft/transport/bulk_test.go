package transport

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// bulkFrame is a bulk frame's bytes.
func bulkFrame(t testing.TB, kind byte, head, bulk []byte) []byte {
	lead := make([]byte, frameHeader+bulkPrefix)
	lead = append(lead, head...)
	must(t, putBulkHeader(lead, kind, len(bulk)))
	return append(lead, bulk...)
}

func FuzzBulkFrame(f *testing.F) {
	f.Add(bulkFrame(f, 1, []byte("head"), []byte("bulk")))
	f.Add(bulkFrame(f, 1, nil, nil))
	var h [frameHeader]byte
	_ = putHeader(&h, 1, []byte("payload"))
	f.Add(append(h[:], "payload"...))
	f.Fuzz(func(t *testing.T, b []byte) {
		buf := make([]byte, 0, 16)
		kind, head, bulk, err := readBulk(bytes.NewReader(b), 1<<20, &buf)
		if err != nil {
			return
		}
		if cap(buf) > max(firstStep, 4*len(b)) {
			t.Fatalf("%d bytes of memory for %d", cap(buf), len(b))
		}
		var again []byte
		if b[3] == flagBulk {
			again = bulkFrame(t, kind, head, bulk)
		} else {
			must(t, putHeader(&h, kind, head))
			again = append(h[:], head...)
		}
		if !bytes.Equal(again, b[:len(again)]) {
			t.Fatal("an accepted frame is written otherwise")
		}
	})
}

func TestABulkFrameIsRefusedWhereItIsNotExpected(t *testing.T) {
	if _, _, err := readFrame(bytes.NewReader(bulkFrame(t, 1, []byte("x"), []byte("y"))), 100); !errors.Is(err, ErrFrameMagic) {
		t.Fatal(err)
	}
	hello := bulkFrame(t, frameHello, []byte("x"), nil)
	buf := []byte{}
	if _, _, _, err := readBulk(bytes.NewReader(hello), 100, &buf); !errors.Is(err, ErrFrameMagic) {
		t.Fatal(err)
	}
}

// TestEveryBitOfABulkFramesHeadIsChecked flips each bit of header and head.
func TestEveryBitOfABulkFramesHeadIsChecked(t *testing.T) {
	good := bulkFrame(t, 1, []byte("a head"), []byte("bulk"))
	for bit := range 8 * (len(good) - len("bulk")) {
		b := bytes.Clone(good)
		b[bit/8] ^= 1 << (bit % 8)
		var buf []byte
		if _, _, _, err := readBulk(bytes.NewReader(b), 1<<20, &buf); err == nil {
			t.Fatalf("bit %d is not covered", bit)
		}
	}
}

// TestBulksArriveAsTheyWereSent sends heads and bulks of memory and file ranges, over plain TCP and TLS.
func TestBulksArriveAsTheyWereSent(t *testing.T) {
	const seed = 7
	for _, secured := range []bool{false, true} {
		var change func(*Options)
		if secured {
			ca := newAuthority(t)
			both, err := LoadTLS(ca.issue(t, "both"))
			must(t, err)
			change = func(o *Options) { o.TLS = both }
		}
		a, b := open(t, identity(1), change), open(t, identity(2), change)
		type frame struct {
			kind       byte
			head, bulk []byte
		}
		got := make(chan frame)
		b.Register(KindFirstFree, func(c *Conn) {
			var buf []byte
			for {
				kind, head, bulk, err := c.ReadBulk(16<<20, &buf)
				if err != nil {
					return
				}
				got <- frame{kind, bytes.Clone(head), bytes.Clone(bulk)}
			}
		})
		source := rand.NewChaCha8([32]byte{seed})
		r := rand.New(source)
		bytesOf := func(n int) []byte {
			p := make([]byte, n)
			_, _ = source.Read(p)
			return p
		}
		content := bytesOf(3 << 20)
		name := filepath.Join(t.TempDir(), "file")
		must(t, os.WriteFile(name, content, 0o600))
		file, err := os.Open(name)
		must(t, err)
		defer func() { _ = file.Close() }()
		c, err := a.Dial(within(t, 10*time.Second), to(b, 2), KindFirstFree)
		must(t, err)
		for i := range 40 {
			head := bytesOf(r.IntN(100))
			var bulk Bulk
			var want []byte
			for range r.IntN(5) {
				if r.IntN(2) == 0 {
					m := bytesOf(1 + r.IntN(300<<10))
					bulk.Pieces = append(bulk.Pieces, Piece{Mem: m})
					want = append(want, m...)
					continue
				}
				pos := r.IntN(len(content))
				n := 1 + r.IntN(len(content)-pos)
				bulk.Pieces = append(bulk.Pieces, Piece{FD: int(file.Fd()), Pos: int64(pos), Len: n})
				want = append(want, content[pos:pos+n]...)
			}
			slow := false
			if r.IntN(2) == 0 {
				bulk.Patience, bulk.Slow = time.Second, func() { slow = true }
			}
			failed := make(chan error, 1)
			go func() { failed <- c.WriteBulk(byte(i), head, &bulk) }()
			f := <-got
			must(t, <-failed)
			if f.kind != byte(i) || !bytes.Equal(f.head, head) || !bytes.Equal(f.bulk, want) {
				t.Fatalf("seed %d, TLS %t, frame %d: %d bytes of head and %d of bulk became %d and %d (slow %t)",
					seed, secured, i, len(head), len(want), len(f.head), len(f.bulk), slow)
			}
			// A plain frame in between.
			go func() { failed <- c.WriteFrame(9, head) }()
			if f := <-got; f.kind != 9 || !bytes.Equal(f.head, head) || f.bulk != nil {
				t.Fatal(f)
			}
			must(t, <-failed)
		}
	}
}

// TestASlowPeerDoesNotHoldTheMemoryOfABulk: the peer takes nothing until the writer has let go of its memory, which is
// then overwritten; what arrives is what it was.
func TestASlowPeerDoesNotHoldTheMemoryOfABulk(t *testing.T) {
	a, b := open(t, identity(1), nil), open(t, identity(2), nil)
	released := make(chan struct{})
	sum := make(chan []byte, 1)
	b.Register(KindFirstFree, func(c *Conn) {
		<-released
		var buf []byte
		_, _, bulk, err := c.ReadBulk(MaxFrameBytes, &buf)
		if err == nil {
			sum <- bytes.Clone(bulk)
		}
		close(sum)
	})
	c, err := a.Dial(within(t, 10*time.Second), to(b, 2), KindFirstFree)
	must(t, err)
	mem := make([]byte, 48<<20) // more than the sockets hold
	for i := 0; i < len(mem); i += 8 {
		binary.LittleEndian.PutUint64(mem[i:], uint64(i))
	}
	want := bytes.Clone(mem)
	calls := 0
	bulk := &Bulk{Pieces: []Piece{{Mem: mem[:1<<20]}, {Mem: mem[1<<20:]}}, Patience: 20 * time.Millisecond, Slow: func() {
		calls++
		clear(mem)
		close(released)
	}}
	must(t, c.WriteBulk(1, nil, bulk))
	if got := <-sum; !bytes.Equal(got, want) || calls != 1 {
		t.Fatalf("%d bytes came otherwise than they were sent; let go %d times", len(got), calls)
	}
}

func TestAFileThatIsTooShortEndsTheConnection(t *testing.T) {
	a, b := open(t, identity(1), nil), open(t, identity(2), nil)
	got := make(chan error, 1)
	b.Register(KindFirstFree, func(c *Conn) {
		var buf []byte
		_, _, _, err := c.ReadBulk(1<<20, &buf)
		got <- err
	})
	name := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(name, make([]byte, 1000), 0o600))
	file, err := os.Open(name)
	must(t, err)
	defer func() { _ = file.Close() }()
	c, err := a.Dial(within(t, 10*time.Second), to(b, 2), KindFirstFree)
	must(t, err)
	err = c.WriteBulk(1, []byte("head"), &Bulk{Pieces: []Piece{{FD: int(file.Fd()), Len: 1001}}})
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatal(err)
	}
	<-c.Done()
	if err := <-got; !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, net.ErrClosed) {
		t.Fatal(err)
	}
}

// TestTriedFramesArriveInOrder: what a socket does not take at once goes before the next frame, whoever writes it.
func TestTriedFramesArriveInOrder(t *testing.T) {
	a, b := tcpPair(t)
	from, to := newConn(a, 10*time.Second), newConn(b, 10*time.Second)
	r := rand.New(rand.NewPCG(5, 5))
	var want [][]byte
	sent, refused, rests := 0, 0, 0
	for len(want) < 200 {
		body := make([]byte, 1+r.IntN(100<<10))
		for i := range body {
			body[i] = byte(r.Uint32())
		}
		bulk := &Bulk{Pieces: []Piece{{Mem: body[:len(body)/2], Len: len(body) / 2}, {Mem: body[len(body)/2:], Len: len(body) - len(body)/2}}}
		if r.IntN(3) == 0 {
			bulk = nil
		}
		ok, rest, err := from.TryWrite(7, body, bulk)
		must(t, err)
		if ok {
			sent++
			want = append(want, body)
		}
		if rest {
			rests++
		}
		if ok && !rest {
			continue
		}
		if !ok {
			refused++
		}
		// The socket is full: somebody reads while the blocking writer goes on.
		done := make(chan error, 1)
		go func() { done <- from.Flush() }()
		var buf []byte
		for len(want) > 0 {
			kind, head, bulk, err := to.ReadBulk(1<<20, &buf)
			must(t, err)
			if kind != 7 || !bytes.Equal(head, want[0]) || bulk != nil && !bytes.Equal(bulk, want[0]) {
				t.Fatal("a frame arrives as another one, or out of order")
			}
			want = want[1:]
		}
		must(t, <-done)
		if sent > 400 {
			break
		}
	}
	if rests == 0 {
		t.Fatalf("%d frames were sent and the socket was never full (%d refused)", sent, refused)
	}
	large := &Bulk{Pieces: []Piece{{Mem: make([]byte, tryMax+1), Len: tryMax + 1}}}
	if ok, _, err := from.TryWrite(7, nil, large); ok || err != nil {
		t.Fatalf("a large frame was taken: %v", err)
	}
	if ok, _, err := from.TryWrite(7, nil, &Bulk{Pieces: []Piece{{FD: 1, Len: 1}}}); ok || err != nil {
		t.Fatalf("a range of a file was taken: %v", err)
	}
}

func tcpPair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { must(t, l.Close()) }()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			accepted <- c
		}
	}()
	a, err = net.Dial("tcp", l.Addr().String())
	must(t, err)
	b = <-accepted
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b
}
