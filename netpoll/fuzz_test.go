package netpoll

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// FuzzFrame sends arbitrary bytes in arbitrary pieces and compares what the
// handler gets with what a reader of the whole would make of it.
func FuzzFrame(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x03abc\x00\x00\x00\x00"), []byte{1, 5})
	f.Add([]byte("\x00\x00\x00\x03abc\xff\xff\xff\xff"), []byte{3})
	f.Add([]byte("\x00\x00\x10\x00abc"), []byte{2, 2, 2})
	f.Add([]byte("\x00\x01\x00\x01"), []byte{})
	f.Add(append(framed(bytes.Repeat([]byte{1}, 5000)), framed(bytes.Repeat([]byte{2}, 1100))...), []byte{200, 100, 255, 255, 255})
	const limit = 1 << 16
	type result struct {
		frames []byte // each with its size
		reason error
	}
	results := make(chan result, 1)
	var got []byte
	s := newServer(f, Options{MaxFrameBytes: limit}, &hooks{
		frame: func(c *Conn, f Frame) {
			got = append(got, framed(f.Data)...)
			f.Release()
			if len(f.Data)%3 == 0 { // stop in the middle now and then
				c.Pause()
				c.Loop().Post(taskFunc(c.Resume))
			}
		},
		close: func(_ *Conn, err error) {
			results <- result{got, err}
			got = nil
		},
	})
	s.Start()
	f.Fuzz(func(t *testing.T, data, cuts []byte) {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		ours := os.NewFile(uintptr(pair[0]), "client")
		defer func() { _ = ours.Close() }()
		s.loops[0].Post(taskFunc(func() {
			s.limits.enter(netip.Addr{})
			s.assign(pair[1], netip.AddrPort{})
		}))
		_ = ours.SetWriteDeadline(time.Now().Add(10 * time.Second))
		rest := data
		for _, cut := range cuts {
			n := min(int(cut), len(rest))
			if _, err := ours.Write(rest[:n]); err != nil {
				break // it was closed for what it has sent
			}
			rest = rest[n:]
		}
		_, _ = ours.Write(rest)
		_ = unix.Shutdown(pair[0], unix.SHUT_WR)

		var want []byte
		good := true
		for left := data; len(left) >= sizeBytes; {
			n := int(int32(binary.BigEndian.Uint32(left)))
			if n < 0 || n > limit {
				good = false
				break
			}
			if len(left) < sizeBytes+n {
				break
			}
			want = append(want, left[:sizeBytes+n]...)
			left = left[sizeBytes+n:]
		}
		select {
		case r := <-results:
			if !bytes.Equal(r.frames, want) {
				t.Errorf("got %d bytes of frames, want %d", len(r.frames), len(want))
			}
			if good != errors.Is(r.reason, io.EOF) {
				t.Errorf("closed because of %v", r.reason)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("the connection is still open")
		}
	})
}
