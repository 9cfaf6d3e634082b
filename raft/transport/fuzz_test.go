package transport

import (
	"bytes"
	"net"
	"testing"
	"time"

	pb "github.com/lni/dragonboat/v4/raftpb"
)

func FuzzFrame(f *testing.F) {
	var h [frameHeader]byte
	_ = putHeader(&h, 1, []byte("payload"))
	f.Add(append(h[:], "payload"...))
	f.Add(badPacket())
	f.Fuzz(func(t *testing.T, b []byte) {
		kind, p, err := readFrame(bytes.NewReader(b), 1<<20)
		if err != nil {
			return
		}
		var h [frameHeader]byte
		must(t, putHeader(&h, kind, p))
		if !bytes.Equal(append(h[:], p...), b[:frameHeader+len(p)]) {
			t.Fatal("an accepted frame is written otherwise")
		}
	})
}

func FuzzHandshake(f *testing.F) {
	h := hello{wireMin: 1, wireMax: 1, kind: 1, self: identity(1), wantNode: 2}
	f.Add(h.encode())
	w := welcome{code: RefusedBusy, detail: "x", wire: 1, self: identity(2)}
	f.Add(w.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := decodeHello(b); err == nil && h.wireMax <= WireMax {
			if again, err := decodeHello(h.encode()); err != nil || *again != *h {
				t.Fatalf("%+v became %+v, %v", h, again, err)
			}
		}
		if w, err := decodeWelcome(b); err == nil {
			if again, err := decodeWelcome(w.encode()); err != nil || *again != *w {
				t.Fatalf("%+v became %+v, %v", w, again, err)
			}
		}
	})
}

// FuzzPort throws bytes at an open port: at its handshake, and at the raft and call streams behind it.
func FuzzPort(f *testing.F) {
	b := heartbeat(3)
	raw, _ := b.Marshal()
	f.Add(byte(0), raw)
	f.Add(byte(1), raw)
	f.Add(byte(2), badPacket())
	chunk := testChunk(0, 1, 10)
	raw, _ = chunk.Marshal()
	f.Add(byte(3), raw)
	tr := New(Options{Self: func() Identity { return identity(2) }, HandshakeTimeout: 100 * time.Millisecond})
	rt := &raftTransport{
		t: tr, rules: rules{1, 2, 5}, onBatch: func(pb.MessageBatch) {}, onChunk: func(pb.Chunk) bool { return true },
		receiving: make(chan struct{}, 2),
	}
	f.Fuzz(func(t *testing.T, where byte, data []byte) {
		server, client := net.Pipe()
		done := make(chan struct{})
		c := newConn(server, time.Second)
		go func() {
			defer close(done)
			defer func() { _ = c.Close() }()
			c.peer = identity(1)
			switch where % 4 {
			case 0:
				_, _ = tr.welcome(c)
			case 1:
				rt.receiveBatches(c)
			case 2:
				tr.serveCalls(c)
			case 3:
				rt.receiveSnapshot(c)
			}
		}()
		go func() {
			buf := make([]byte, 1024)
			for {
				if _, err := client.Read(buf); err != nil {
					return
				}
			}
		}()
		_ = client.SetWriteDeadline(time.Now().Add(time.Second))
		if where&4 == 0 { // framed, so that the bytes get past the checksum
			var h [frameHeader]byte
			kind := byte(1)
			if where%4 == 0 {
				kind = frameHello
			}
			_ = putHeader(&h, kind, data)
			_, _ = client.Write(h[:])
		}
		_, _ = client.Write(data)
		_ = client.Close()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Fatal("a handler does not end with its connection")
		}
	})
}

func FuzzBatch(f *testing.F) {
	b := heartbeat(3)
	b.Requests[0].Type = pb.Replicate
	b.Requests[0].Entries = []pb.Entry{{Index: 1, Term: 1, Cmd: []byte("x")}}
	raw, _ := b.Marshal()
	f.Add(raw)
	c := testChunk(0, 1, 10)
	raw, _ = c.Marshal()
	f.Add(raw)
	r := rules{1, 2, 5}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if b, err := r.batch(raw, 1); err == nil {
			again, err := b.Marshal()
			must(t, err)
			if _, err := r.batch(again, 1); err != nil {
				t.Fatalf("an accepted batch is refused: %v", err)
			}
		}
		if c, err := r.chunk(raw, 1); err == nil {
			again, err := c.Marshal()
			must(t, err)
			if _, err := r.chunk(again, 1); err != nil {
				t.Fatalf("an accepted chunk is refused: %v", err)
			}
		}
	})
}
