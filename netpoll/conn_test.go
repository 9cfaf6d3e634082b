package netpoll

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// do runs f on a loop and waits for it.
func do(l *Loop, f func()) {
	done := make(chan struct{})
	l.Post(taskFunc(func() { f(); close(done) }))
	<-done
}

func TestConnAnswersInOrderOfSlotsWhateverTheOrderOfReplies(t *testing.T) {
	rng := newRand(t)
	const n = 100
	type waiting struct {
		slot Slot
		text string
	}
	all := make(chan waiting, n)
	conns := make(chan *Conn, 1)
	_, addr := serve(t, Options{}, &hooks{
		open: func(c *Conn) { conns <- c },
		frame: func(c *Conn, f Frame) {
			all <- waiting{c.Begin(), string(f.Data)}
			f.Release()
		},
	})
	c := dial(t, addr)
	var want []string
	for i := range n {
		text := fmt.Sprintf("request %d", i)
		if i%7 == 3 {
			text = "silent"
		} else {
			want = append(want, text)
		}
		c.send(framed([]byte(text)))
	}
	conn := <-conns
	got := make([]waiting, n)
	for i := range got {
		got[i] = <-all
	}
	rng.Shuffle(n, func(i, j int) { got[i], got[j] = got[j], got[i] })
	for _, w := range got {
		conn.Loop().Post(taskFunc(func() {
			if w.text == "silent" {
				conn.Skip(w.slot)
				return
			}
			r := conn.Loop().NewResponse()
			r.Append([]byte(w.text))
			conn.Reply(w.slot, r)
		}))
	}
	for i, text := range want {
		if b := c.receive(); string(b) != text {
			t.Fatalf("answer %d is %q, want %q", i, b, text)
		}
	}
}

func TestSlowReaderDoesNotPinMemoryOfOthers(t *testing.T) {
	lib := newLibrary(t, 8<<20)
	own := new(owners)
	s, addr := serve(t, Options{PinTimeout: 5 * time.Millisecond}, &hooks{frame: func(c *Conn, f Frame) {
		f.Release()
		r := c.Loop().NewResponse()
		r.Append([]byte("head"))
		for i := 0; i < len(lib.data); i += 1 << 20 {
			r.AppendMem(lib.data[i:i+1<<20], own.new())
		}
		r.Append([]byte("tail"))
		c.Reply(c.Begin(), r)
	}})
	c := dial(t, addr)
	start := time.Now()
	c.send(framed([]byte("give")))
	eventually(t, "owners released", func() bool {
		own.mu.Lock()
		defer own.mu.Unlock()
		for _, w := range own.all {
			if w.released.Load() == 0 {
				return false
			}
		}
		return len(own.all) == 8
	})
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("owners were held for %v", took)
	}
	if s.Stats().Copied == 0 {
		t.Error("nothing was copied: the client was not slow")
	}
	if b := c.receive(); !bytes.Equal(b, append(append([]byte("head"), lib.data...), "tail"...)) {
		t.Errorf("answer of %d bytes is wrong", len(b))
	}
	own.check(t)
	eventually(t, "copies given back", func() bool { return s.memory.used.Load() <= landingBytes })
}

// An answer that waits for an earlier one must not hold the engine's memory
// either, for minutes perhaps.
func TestAnswerWaitingForItsTurnDoesNotPinMemoryOfOthers(t *testing.T) {
	own := new(owners)
	var first Slot
	var conn *Conn
	_, addr := serve(t, Options{PinTimeout: 5 * time.Millisecond}, &hooks{frame: func(c *Conn, f Frame) {
		if string(f.Data) == "first" {
			conn, first = c, c.Begin()
		} else {
			r := c.Loop().NewResponse()
			r.AppendMem(bytes.Clone(f.Data), own.new())
			c.Reply(c.Begin(), r)
		}
		f.Release()
	}})
	c := dial(t, addr)
	c.send(framed([]byte("first")))
	c.send(framed([]byte("second")))
	eventually(t, "owner released", func() bool {
		own.mu.Lock()
		defer own.mu.Unlock()
		return len(own.all) == 1 && own.all[0].released.Load() == 1
	})
	do(conn.Loop(), func() { conn.Reply(first, conn.Loop().NewResponse()) })
	if a, b := c.receive(), c.receive(); len(a) != 0 || string(b) != "second" {
		t.Errorf("got %q and %q", a, b)
	}
}

func TestSlowReaderOverItsBudgetIsClosed(t *testing.T) {
	own := new(owners)
	data := make([]byte, 32<<20)
	var reasons closeReasons
	_, addr := serve(t, Options{ConnMemory: 8 << 20, PinTimeout: time.Millisecond}, &hooks{frame: func(c *Conn, f Frame) {
		f.Release()
		r := c.Loop().NewResponse()
		r.AppendMem(data, own.new())
		c.Reply(c.Begin(), r)
	}, close: reasons.add})
	dial(t, addr).send(framed([]byte("give")))
	if got := reasons.wait(t, 1); !errors.Is(got[0], ErrSlowReader) {
		t.Errorf("closed because of %v", got)
	}
	own.check(t)
}

func TestPeerThatTakesNothingIsClosed(t *testing.T) {
	lib := newLibrary(t, 16<<20)
	own := new(owners)
	var reasons closeReasons
	_, addr := serve(t, Options{WriteTimeout: 50 * time.Millisecond}, &hooks{frame: func(c *Conn, f Frame) {
		f.Release()
		r := c.Loop().NewResponse()
		r.AppendFile(int(lib.file.Fd()), 0, len(lib.data), own.new())
		c.Reply(c.Begin(), r)
	}, close: reasons.add})
	dial(t, addr).send(framed([]byte("give")))
	if got := reasons.wait(t, 1); !errors.Is(got[0], ErrWriteTimeout) {
		t.Errorf("closed because of %v", got)
	}
	own.check(t)
}

// A peer that never reads and goes on asking is not read either: what it can
// make us hold is bounded.
func TestPeerThatOnlyAsksIsNotReadForEver(t *testing.T) {
	var frames atomic.Int64
	s, addr := serve(t, Options{ConnMemory: 1 << 20, MaxInflight: 10_000}, &hooks{frame: func(c *Conn, f Frame) {
		frames.Add(1)
		f.Release()
		r := c.Loop().NewResponse()
		r.Grow(64 << 10)
		c.Reply(c.Begin(), r)
	}})
	c := dial(t, addr)
	_ = c.conn.SetWriteDeadline(time.Now().Add(time.Second))
	ask := bytes.Repeat(framed([]byte("give")), 1000)
	for i := 0; i < 10_000; i++ {
		if _, err := c.conn.Write(ask); err != nil {
			break
		}
	}
	// What the kernel holds for both sides, and what we do.
	if n := frames.Load() * 64 << 10; n > 64<<20 {
		t.Errorf("%d bytes of answers were made for a peer that reads none", n)
	}
	if used := s.Stats().MemoryUsed; used > 4<<20 {
		t.Errorf("%d bytes are held for it", used)
	}
}

func TestFileShorterThanItsRangeClosesTheConnection(t *testing.T) {
	lib := newLibrary(t, 1000)
	own := new(owners)
	var reasons closeReasons
	_, addr := serve(t, Options{}, &hooks{frame: func(c *Conn, f Frame) {
		f.Release()
		r := c.Loop().NewResponse()
		r.AppendFile(int(lib.file.Fd()), 500, 1000, own.new())
		c.Reply(c.Begin(), r)
	}, close: reasons.add})
	dial(t, addr).send(framed([]byte("give")))
	if got := reasons.wait(t, 1); !errors.Is(got[0], ErrShortFile) {
		t.Errorf("closed because of %v", got)
	}
	own.check(t)
}

func TestHalfFrameIsClosedAfterItsTime(t *testing.T) {
	var reasons closeReasons
	s, addr := serve(t, Options{FrameTimeout: 100 * time.Millisecond}, &hooks{frame: echo, close: reasons.add})
	quiet := dial(t, addr) // no half frame: no deadline
	for _, half := range [][]byte{{0}, {0, 0, 1}, {0, 0, 0, 9}, framed(make([]byte, 5000))[:4000]} {
		dial(t, addr).send(half)
	}
	// One byte now and then does not help.
	drip := dial(t, addr)
	drip.send([]byte{0, 0, 1, 0})
	go func() {
		for range 100 {
			if _, err := drip.conn.Write([]byte{1}); err != nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	for i, err := range reasons.wait(t, 5) {
		if !errors.Is(err, ErrFrameTimeout) {
			t.Errorf("connection %d closed because of %v", i, err)
		}
	}
	quiet.send(framed([]byte("still here")))
	quiet.receive()
	if n := s.Stats().ClosedFrame; n != 5 {
		t.Errorf("%d half frames counted", n)
	}
}

// Time during which the server does not read is not the peer's.
func TestHalfFrameOfAPausedConnectionIsNotClosed(t *testing.T) {
	conns := make(chan *Conn, 1)
	var reasons closeReasons
	_, addr := serve(t, Options{FrameTimeout: 50 * time.Millisecond}, &hooks{frame: func(c *Conn, f Frame) {
		if string(f.Data) == "pause" {
			c.Pause()
			conns <- c
		}
		echo(c, f)
	}, close: reasons.add})
	c := dial(t, addr)
	c.send(append(framed([]byte("pause")), framed([]byte("second"))[:7]...))
	c.receive()
	conn := <-conns
	time.Sleep(200 * time.Millisecond)
	c.send(framed([]byte("second"))[7:])
	do(conn.Loop(), conn.Resume)
	if b := c.receive(); string(b) != "second" {
		t.Errorf("got %q", b)
	}
}

func TestIdleConnectionIsClosedAndAWaitingOneIsNot(t *testing.T) {
	var reasons closeReasons
	conns := make(chan *Conn, 10)
	_, addr := serve(t, Options{IdleTimeout: 100 * time.Millisecond}, &hooks{frame: func(c *Conn, f Frame) {
		if string(f.Data) == "wait" {
			c.Begin()
			f.Release()
			conns <- c
			return
		}
		echo(c, f)
	}, close: reasons.add})
	idle, waiting, busy := dial(t, addr), dial(t, addr), dial(t, addr)
	waiting.send(framed([]byte("wait")))
	start := time.Now()
	for time.Since(start) < 400*time.Millisecond {
		busy.send(framed([]byte("x")))
		busy.receive()
		time.Sleep(10 * time.Millisecond)
	}
	if got := reasons.wait(t, 1); len(got) != 1 || !errors.Is(got[0], ErrIdle) {
		t.Errorf("closed: %v", got)
	}
	if !idle.closedWithin(time.Second) {
		t.Error("the idle connection is open")
	}
	do((<-conns).Loop(), func() {})
}

func TestGarbageClosesOnlyItsOwnConnection(t *testing.T) {
	var reasons closeReasons
	s, addr := serve(t, Options{MaxFrameBytes: 1 << 20}, &hooks{frame: echo, close: reasons.add})
	good := dial(t, addr)
	garbage := []string{
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "\xff\xff\xff\xff", "\x80\x00\x00\x00",
		"\x7f\xff\xff\xff", "\x00\x10\x00\x01", "SSH-2.0-OpenSSH\r\n",
		string(framed([]byte("fine"))) + "\xff\xff\xff\xffmore",
	}
	for _, g := range garbage {
		c := dial(t, addr)
		c.send([]byte(g))
		if !c.closedWithin(5 * time.Second) {
			t.Errorf("%q did not close the connection", g)
		}
	}
	for _, err := range reasons.wait(t, len(garbage)) {
		var size *FrameSizeError
		if !errors.As(err, &size) || !strings.Contains(err.Error(), "announced") {
			t.Errorf("closed because of %v", err)
		}
	}
	good.send(framed([]byte("hello")))
	good.receive()
	if n := s.Stats().ClosedBroken; n != uint64(len(garbage)) {
		t.Errorf("%d counted", n)
	}
}

func TestFrameLimitOfOneConnection(t *testing.T) {
	_, addr := serve(t, Options{}, &hooks{open: func(c *Conn) { c.SetMaxFrameBytes(100) }, frame: func(c *Conn, f Frame) {
		c.SetMaxFrameBytes(1 << 30) // authenticated; the server's limit stays
		echo(c, f)
	}})
	c := dial(t, addr)
	c.send(framed(make([]byte, 100)))
	c.receive()
	c.send(framed(make([]byte, 101)))
	c.receive()
	early := dial(t, addr)
	early.send(framed(make([]byte, 101)))
	if !early.closedWithin(5 * time.Second) {
		t.Error("a large frame was taken too early")
	}
}

func TestFrameOfExactlyTheLimitAndAnEmptyOneAreDelivered(t *testing.T) {
	_, addr := serve(t, Options{MaxFrameBytes: 3 << 20}, &hooks{frame: echo})
	c := dial(t, addr)
	for _, n := range []int{0, 1, 3 << 20, 0, 3<<20 - 1} {
		b := bytes.Repeat([]byte{7}, n)
		c.send(framed(b))
		if !bytes.Equal(c.receive(), b) {
			t.Errorf("frame of %d bytes came back wrong", n)
		}
	}
}

// A peer that has proven itself gets its memory at once; very large frames grow in place.
func TestLargeFramesArriveWhole(t *testing.T) {
	s, addr := serve(t, Options{}, &hooks{frame: echo})
	c := dial(t, addr)
	lib := newLibrary(t, 40<<20)
	for _, n := range []int{70 << 10, 70 << 10, 1 << 20, 1 << 20, 5 << 20, 40 << 20, 1 << 20, 40 << 20} {
		go c.conn.Write(framed(lib.data[:n])) //nolint:errcheck // receive notices
		if b := c.receive(); !bytes.Equal(b, lib.data[:n]) {
			t.Fatalf("frame of %d bytes came back wrong", n)
		}
	}
	eventually(t, "memory given back", func() bool { return s.Stats().MemoryUsed <= landingBytes })
}

func TestMaxInflightStopsDeliveryUntilAnAnswer(t *testing.T) {
	var mu sync.Mutex
	var slots []Slot
	conns := make(chan *Conn, 1)
	_, addr := serve(t, Options{MaxInflight: 5}, &hooks{open: func(c *Conn) { conns <- c }, frame: func(c *Conn, f Frame) {
		f.Release()
		mu.Lock()
		defer mu.Unlock()
		slots = append(slots, c.Begin())
	}})
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(slots) }
	c := dial(t, addr)
	c.send(bytes.Repeat(framed([]byte("ask")), 5000))
	eventually(t, "five frames", func() bool { return count() == 5 })
	time.Sleep(20 * time.Millisecond)
	if n := count(); n != 5 {
		t.Fatalf("%d frames were delivered", n)
	}
	conn := <-conns
	for i := range 5000 {
		eventually(t, "the next frame", func() bool { return count() > i })
		do(conn.Loop(), func() { mu.Lock(); s := slots[i]; mu.Unlock(); conn.Reply(s, conn.Loop().NewResponse()) })
		c.receive()
	}
}

func TestPauseKeepsFramesAndTheirOrder(t *testing.T) {
	var got []byte
	resumed := make(chan struct{}, 1000)
	_, addr := serve(t, Options{}, &hooks{frame: func(c *Conn, f Frame) {
		got = append(got, f.Data...)
		if len(got)%3 == 0 {
			c.Pause()
			time.AfterFunc(time.Millisecond, func() { c.Loop().Post(taskFunc(c.Resume)) })
		}
		if len(got) == 200 {
			resumed <- struct{}{}
		}
		echo(c, f)
	}})
	c := dial(t, addr)
	var all []byte
	for i := range 200 {
		all = append(all, framed([]byte{byte(i)})...)
	}
	c.send(all)
	<-resumed
	for i := range 200 {
		if b := c.receive(); b[0] != byte(i) {
			t.Fatalf("answer %d is %d", i, b[0])
		}
	}
}

// Frames that the handler keeps count against ConnMemory, and giving them back
// on any thread lets the connection go on.
func TestFramesHeldStopReadingUntilReleased(t *testing.T) {
	frames := make(chan Frame, 10_000)
	s, addr := serve(t, Options{ConnMemory: 100_000}, &hooks{frame: func(_ *Conn, f Frame) { frames <- f }})
	c := dial(t, addr)
	go func() {
		for range 1000 {
			if _, err := c.conn.Write(framed(make([]byte, 1000))); err != nil {
				return
			}
		}
	}()
	eventually(t, "frames up to the limit", func() bool { return len(frames) >= 99 })
	time.Sleep(20 * time.Millisecond)
	if n := len(frames); n > 101 {
		t.Errorf("%d frames of 1000 bytes are held", n)
	}
	for range 1000 {
		f := <-frames
		if len(f.Data) != 1000 {
			t.Fatalf("frame of %d bytes", len(f.Data))
		}
		f.Release()
	}
	eventually(t, "memory given back", func() bool { return s.Stats().MemoryUsed <= landingBytes })
}

// The release on another thread may come at any point of the loop's reading.
func TestFramesReleasedWhileTheLoopReads(t *testing.T) {
	frames := make(chan Frame, 100_000)
	_, addr := serve(t, Options{ConnMemory: 3000}, &hooks{frame: func(_ *Conn, f Frame) { frames <- f }})
	c := dial(t, addr)
	const n = 50_000
	go func() {
		var all []byte
		for i := range n {
			all = append(all, framed(binary.BigEndian.AppendUint32(make([]byte, i%700), uint32(i)))...)
		}
		_, _ = c.conn.Write(all)
	}()
	for i := range n {
		select {
		case f := <-frames:
			if len(f.Data) != i%700+4 || binary.BigEndian.Uint32(f.Data[i%700:]) != uint32(i) {
				t.Fatalf("frame %d is wrong: %d bytes", i, len(f.Data))
			}
			f.Release()
		case <-time.After(5 * time.Second):
			t.Fatalf("nothing after frame %d", i)
		}
	}
}

// While one connection floods its loop, another one on it is answered soon.
func TestConnectionsOfALoopTakeTurns(t *testing.T) {
	_, addr := serve(t, Options{MaxInflight: 1 << 20}, &hooks{frame: echo})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		flood := dial(t, addr)
		go io.Copy(io.Discard, flood.conn) //nolint:errcheck // until closed
		wg.Go(func() {
			b := bytes.Repeat(framed(make([]byte, 100)), 10_000)
			for {
				select {
				case <-stop:
					return
				default:
					_, _ = flood.conn.Write(b)
				}
			}
		})
	}
	c := dial(t, addr)
	worst := time.Duration(0)
	rounds, limit := 200, 500*time.Millisecond
	if raceEnabled {
		rounds, limit = 20, 10*time.Second // the flood alone keeps two cores busy
	}
	for range rounds {
		start := time.Now()
		c.send(framed([]byte("now")))
		c.receive()
		worst = max(worst, time.Since(start))
	}
	close(stop)
	wg.Wait()
	if worst > limit {
		t.Errorf("an answer took %v", worst)
	}
}

func TestEventOfAnEarlierConnectionIsDropped(t *testing.T) {
	conns := make(chan *Conn, 1)
	var reasons closeReasons
	s, addr := serve(t, Options{}, &hooks{open: func(c *Conn) { conns <- c }, frame: echo, close: reasons.add})
	c := dial(t, addr)
	conn := <-conns
	do(s.loops[0], func() {
		s.loops[0].handle(&unix.EpollEvent{Events: unix.EPOLLHUP | unix.EPOLLERR | unix.EPOLLIN, Fd: int32(conn.fd), Pad: int32(conn.gen + 1)})
		if conn.Closed() || conn.hup {
			t.Error("an event of another generation was taken")
		}
	})
	c.send(framed([]byte("x")))
	c.receive()
}

// TestCloseRaces closes connections from everywhere at once, while answers,
// releases and further frames are under way. It is worth most under -race.
func TestCloseRaces(t *testing.T) {
	rng := newRand(t)
	var opened, closed atomic.Int64
	own := new(owners)
	reason := errors.New("enough")
	var seen sync.Map
	var under atomic.Int64
	s, addr := serve(t, Options{Loops: 2, PinTimeout: time.Millisecond}, &hooks{
		open: func(*Conn) { opened.Add(1) },
		frame: func(c *Conn, f Frame) {
			if _, gone := seen.Load(c.ID()); gone {
				t.Error("a frame after OnClose")
			}
			slot := c.Begin()
			under.Add(1)
			go func() {
				if f.Data[0] == 'k' {
					c.Close(reason)
				}
				c.Loop().Post(taskFunc(func() {
					r := c.Loop().NewResponse()
					r.AppendMem(bytes.Clone(f.Data), own.new())
					c.Reply(slot, r)
					f.Release()
					under.Add(-1)
					if f.Data[0] == 'r' { // also a second time
						c.Close(reason)
						c.Close(nil)
					}
				}))
			}()
		},
		close: func(c *Conn, _ error) {
			if _, twice := seen.LoadOrStore(c.ID(), true); twice {
				t.Error("OnClose twice")
			}
			closed.Add(1)
		},
	})
	var wg sync.WaitGroup
	for range 8 {
		seed := rng.Uint64()
		wg.Go(func() {
			for i := range 60 {
				conn, err := net.Dial("tcp", addr)
				if err != nil {
					t.Error(err)
					return
				}
				for j := range 20 {
					text := "work"
					if uint64(i*20+j)%17 == seed%17 {
						text = "kill"
					} else if uint64(i*20+j)%19 == seed%19 {
						text = "reply and kill"
					}
					if _, err := conn.Write(framed([]byte(text))); err != nil {
						break
					}
				}
				if i%3 == 0 {
					_ = conn.(*net.TCPConn).SetLinger(0) // reset
				} else if i%3 == 1 {
					_ = conn.SetReadDeadline(time.Now().Add(time.Millisecond))
					_, _ = io.Copy(io.Discard, conn)
				}
				_ = conn.Close()
			}
		})
	}
	wg.Wait()
	eventually(t, "all closed", func() bool { return opened.Load() == closed.Load() && under.Load() == 0 })
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	own.check(t)
}

func TestBytesOfAFrameStayWhileItIsKept(t *testing.T) {
	rng := newRand(t)
	var mu sync.Mutex
	var kept []Frame
	_, addr := serve(t, Options{ConnMemory: 64 << 20}, &hooks{frame: func(c *Conn, f Frame) {
		mu.Lock()
		kept = append(kept, f)
		mu.Unlock()
		r := c.Loop().NewResponse()
		c.Reply(c.Begin(), r)
	}})
	c := dial(t, addr)
	for i := range 300 {
		b := make([]byte, 4+rng.IntN(20_000))
		for j := range b {
			b[j] = byte(i)
		}
		binary.BigEndian.PutUint32(b, uint32(i))
		c.send(framed(b))
		c.receive()
	}
	mu.Lock()
	defer mu.Unlock()
	for i, f := range kept {
		if int(binary.BigEndian.Uint32(f.Data)) != i || len(bytes.Trim(f.Data[4:], string([]byte{byte(i)}))) > 0 {
			t.Fatalf("frame %d has changed", i)
		}
		f.Release()
	}
}
