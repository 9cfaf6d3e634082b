package netpoll

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestConnectionLimits(t *testing.T) {
	s, addr := serve(t, Options{MaxConns: 5, MaxConnsPerIP: 3}, &hooks{frame: echo})
	from := func(ip string) net.Conn {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
		conn, err := d.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	alive := func(conn net.Conn) bool {
		c := &client{t: t, conn: conn, in: nil}
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := conn.Write(framed(nil)); err != nil {
			return false
		}
		_, err := conn.Read(c.head[:])
		return err == nil
	}
	var first net.Conn
	for i := range 3 {
		conn := from("127.0.0.1")
		if first == nil {
			first = conn
		}
		if !alive(conn) {
			t.Fatalf("connection %d was refused", i)
		}
	}
	if alive(from("127.0.0.1")) {
		t.Error("a fourth connection of one address was taken")
	}
	if !alive(from("127.0.0.2")) || !alive(from("127.0.0.3")) {
		t.Error("another address was refused")
	}
	if alive(from("127.0.0.4")) {
		t.Error("a sixth connection was taken")
	}
	_ = first.Close()
	eventually(t, "place given back", func() bool { return s.Stats().Conns == 4 })
	if !alive(from("127.0.0.1")) {
		t.Error("the place of a closed connection is not free")
	}
	st := s.Stats()
	if st.RefusedPerIP != 1 || st.RefusedTotal != 1 || st.Accepted != 6 {
		t.Errorf("counted %+v", st)
	}
}

func TestListensOnIPv4AndIPv6(t *testing.T) {
	peers := make(chan string, 10)
	s := newServer(t, Options{Loops: 2}, &hooks{frame: echo, open: func(c *Conn) { peers <- c.RemoteAddr().Addr().String() }})
	both, err := s.Listen("[::]:0")
	if err != nil {
		t.Skipf("no IPv6 here: %v", err)
	}
	six, err := s.Listen("[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	four, err := s.Listen("127.0.0.1:0") // also after Start
	if err != nil {
		t.Fatal(err)
	}
	port := func(a net.Addr) string { _, p, _ := net.SplitHostPort(a.String()); return p }
	for _, c := range []struct{ addr, peer string }{
		{"127.0.0.1:" + port(both), "127.0.0.1"},
		{"[::1]:" + port(both), "::1"},
		{six.String(), "::1"},
		{four.String(), "127.0.0.1"},
	} {
		c1 := dial(t, c.addr)
		c1.send(framed([]byte("x")))
		c1.receive()
		if p := <-peers; p != c.peer {
			t.Errorf("%s: the peer is %s, want %s", c.addr, p, c.peer)
		}
	}
	if _, err := s.Listen(four.String()); err == nil {
		t.Error("an address in use was taken")
	}
}

func TestAddressesOfOneIPv6NetworkCountAsOne(t *testing.T) {
	l := limits{max: 100, maxPerIP: 2, perIP: map[netipAddr]int{}}
	for i, c := range []struct {
		addr string
		want refusal
	}{
		{"2001:db8::1", refusedNot},
		{"2001:db8::2", refusedNot},
		{"2001:db8::3", refusedPerIP},
		{"2001:db8:0:1::1", refusedNot},
		{"10.0.0.1", refusedNot},
		{"10.0.0.2", refusedNot},
		{"10.0.0.1", refusedNot},
		{"10.0.0.1", refusedPerIP},
	} {
		if got := l.enter(parseAddr(c.addr)); got != c.want {
			t.Errorf("%d: %s: %d, want %d", i, c.addr, got, c.want)
		}
	}
	l.leave(parseAddr("2001:db8::2"))
	if l.enter(parseAddr("2001:db8::4")) != refusedNot {
		t.Error("the place was not given back")
	}
}

// Without descriptors, clients are turned away at once, those connected are
// served, and everything is well again when descriptors are back.
func TestServerSurvivesWithoutDescriptors(t *testing.T) {
	s, addr := serve(t, Options{}, &hooks{frame: echo})
	old := dial(t, addr)
	old.send(framed([]byte("a")))
	old.receive()
	// The client's descriptors come from the same table: make them first.
	var fds []int
	for range 20 {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = unix.Close(fd) }()
		fds = append(fds, fd)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	tight := limit
	tight.Cur = uint64(fds[len(fds)-1] + 1) // nothing above what is open now; holes are filled below
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &tight); err != nil {
		t.Fatal(err)
	}
	restore := func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &limit) }
	defer restore()
	var fillers []int
	for {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			break
		}
		fillers = append(fillers, fd)
	}
	tcp, _ := net.ResolveTCPAddr("tcp", addr)
	sa := &unix.SockaddrInet4{Port: tcp.Port, Addr: [4]byte(tcp.IP.To4())}
	for _, fd := range fds {
		if err := unix.Connect(fd, sa); err != nil {
			t.Errorf("connect: %v", err)
		}
	}
	for i, fd := range fds {
		_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5})
		var b [1]byte
		if n, err := unix.Read(fd, b[:]); n != 0 && !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("client %d hangs: %d, %v", i, n, err)
		}
	}
	old.send(framed([]byte("b")))
	old.receive()
	turns := s.Stats().Turns
	time.Sleep(50 * time.Millisecond)
	if n := s.Stats().Turns - turns; n > 20 {
		t.Errorf("the loop spins: %d turns in 50 ms", n)
	}
	restore()
	for _, fd := range fillers {
		_ = unix.Close(fd)
	}
	fresh := dial(t, addr)
	fresh.send(framed([]byte("c")))
	fresh.receive()
	if s.Stats().RefusedNoFile < 20 {
		t.Errorf("%d refusals counted", s.Stats().RefusedNoFile)
	}
}

func TestDrainAnswersWhatWasDeliveredAndNothingElse(t *testing.T) {
	type waiting struct {
		c *Conn
		s Slot
	}
	all := make(chan waiting, 10)
	var reasons closeReasons
	s, addr := serve(t, Options{Loops: 2}, &hooks{frame: func(c *Conn, f Frame) {
		f.Release()
		all <- waiting{c, c.Begin()}
	}, close: reasons.add})
	idle, busy := dial(t, addr), dial(t, addr)
	busy.send(append(framed([]byte("one")), framed([]byte("two"))...))
	first, second := <-all, <-all
	drained := make(chan error, 1)
	go func() { drained <- s.Drain(context.Background()) }()
	if !idle.closedWithin(5 * time.Second) {
		t.Error("an idle connection stays open")
	}
	busy.send(framed([]byte("three")))
	time.Sleep(20 * time.Millisecond)
	if len(all) != 0 {
		t.Error("a frame was delivered while draining")
	}
	if conn, err := net.Dial("tcp", addr); err == nil {
		_ = conn.Close()
		t.Error("a client was accepted while draining")
	}
	for _, w := range []waiting{second, first} {
		do(w.c.Loop(), func() {
			r := w.c.Loop().NewResponse()
			r.Grow(2 << 20)
			w.c.Reply(w.s, r)
		})
	}
	if a, b := busy.receive(), busy.receive(); len(a) != 2<<20 || len(b) != 2<<20 {
		t.Errorf("answers of %d and %d bytes", len(a), len(b))
	}
	if !busy.closedWithin(5 * time.Second) {
		t.Error("a drained connection stays open")
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
	for _, err := range reasons.wait(t, 2) {
		if !errors.Is(err, ErrServerClosed) {
			t.Errorf("closed because of %v", err)
		}
	}
	ran := false
	do(s.loops[1], func() { ran = true }) // the loops live until Shutdown
	if !ran {
		t.Error("no loop after Drain")
	}
}

func TestDrainClosesWhatIsLeftWhenItsTimeIsOver(t *testing.T) {
	delivered := make(chan struct{})
	s, addr := serve(t, Options{}, &hooks{frame: func(c *Conn, f Frame) {
		f.Release()
		c.Begin()
		close(delivered)
	}})
	c := dial(t, addr)
	c.send(framed([]byte("never answered")))
	<-delivered
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown: %v", err)
	}
	if !c.closedWithin(time.Second) {
		t.Error("the connection is open after Shutdown")
	}
	s.loops[0].Post(taskFunc(func() { t.Error("a task ran after Shutdown") }))
	if err := s.Shutdown(context.Background()); err != nil {
		t.Errorf("second Shutdown: %v", err)
	}
}

func TestServerThatNeverStartedCanBeShutDown(t *testing.T) {
	s := newServer(t, Options{}, &hooks{})
	addr, err := s.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	if conn, err := net.Dial("tcp", addr.String()); err == nil {
		_ = conn.Close()
		t.Error("the listener is open")
	}
}

func TestStartLoopsServesTasksBeforeClients(t *testing.T) {
	s := newServer(t, Options{}, &hooks{frame: echo})
	addr, err := s.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.StartLoops()
	do(s.loops[0], func() {})
	c := dial(t, addr.String()) // waits in the kernel's queue
	c.send(framed([]byte("early")))
	if _, err := c.tryReceive(30 * time.Millisecond); err == nil {
		t.Error("served before Start")
	}
	s.Start()
	c.receive()
}

func TestPostRunsTasksInOrderAndWakesTheLoop(t *testing.T) {
	s := newServer(t, Options{}, &hooks{})
	l := s.loops[0]
	var ends atomic.Int64
	l.OnTurnEnd(func() { ends.Add(1) })
	s.Start()
	var got []int
	var wg sync.WaitGroup
	for i := range 1000 {
		wg.Add(1)
		l.Post(taskFunc(func() { got = append(got, i); wg.Done() }))
		if i%100 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	wg.Wait()
	for i, v := range got {
		if v != i {
			t.Fatalf("task %d ran at place %d", v, i)
		}
	}
	if ends.Load() == 0 {
		t.Error("OnTurnEnd was not called")
	}
	// A sleeping loop does not turn.
	time.Sleep(5 * time.Millisecond)
	before := ends.Load()
	time.Sleep(30 * time.Millisecond)
	if n := ends.Load() - before; n > 2 {
		t.Errorf("an idle loop made %d turns", n)
	}
}

func TestAddFDCallsWhileReadable(t *testing.T) {
	s := newServer(t, Options{}, &hooks{})
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	var calls atomic.Int64
	s.loops[0].AddFD(fd, func() {
		var b [8]byte
		if _, err := unix.Read(fd, b[:]); err == nil {
			calls.Add(1)
		}
	})
	s.loops[0].AddFD(-1, nil) // of a simulated queue
	s.Start()
	for i := range 3 {
		if _, err := unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "call", func() bool { return calls.Load() == int64(i+1) })
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.Shutdown(ctx)
}

func TestOptionsThatMakeNoSenseAreRefused(t *testing.T) {
	for _, o := range []Options{{Loops: -1}, {MaxFrameBytes: 1 << 31}, {IdleTimeout: -1}, {TotalMemory: -5}} {
		if _, err := New(o, &hooks{}); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
	o := Options{MaxFrameBytes: 200 << 20, TotalMemory: 1}
	if err := o.complete(); err != nil || o.TotalMemory < 200<<20 {
		t.Errorf("a budget of %d for frames of %d: %v", o.TotalMemory, o.MaxFrameBytes, err)
	}
}
