package netpoll

import (
	"bytes"
	"encoding/binary"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// rss is the resident memory of this process, server and clients together.
func rss(t testing.TB) int64 {
	t.Helper()
	runtime.GC()
	debug.FreeOSMemory()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(b))[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// needFiles skips the test when the process may not open so many descriptors.
func needFiles(t testing.TB, n uint64) {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Cur < n {
		limit.Cur = min(n, limit.Max)
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
	}
	if limit.Cur < n {
		t.Skipf("SKIPPED: %d descriptors are needed, the limit is %d", n, limit.Max)
	}
}

// crowd connects n raw sockets; they cost this process nothing but a descriptor.
func crowd(t testing.TB, addr string, n int) []int {
	t.Helper()
	tcp, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	sa := &unix.SockaddrInet4{Port: tcp.Port, Addr: [4]byte(tcp.IP.To4())}
	fds := make([]int, n)
	for i := range fds {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
		if err := unix.Connect(fd, sa); err != nil {
			t.Fatal(err)
		}
		if err := unix.SetNonblock(fd, true); err != nil {
			t.Fatal(err)
		}
		fds[i] = fd
	}
	return fds
}

// TestThousandsThatAnnounceMuchDoNotHurtTheOthers is the attack that stops Apache
// Kafka 4.3.1 with its default heap: connections that announce 100 MB each. Here
// 3,000 of them send nothing more, a little, or as much as they can.
func TestThousandsThatAnnounceMuchDoNotHurtTheOthers(t *testing.T) {
	if testing.Short() || raceEnabled {
		t.Skip("memory is measured without -short and -race only")
	}
	const attackers = 3000
	needFiles(t, 2*attackers+200)
	for name, sends := range map[string]int{"nothing": 0, "a little": 3000, "as much as they can": 1 << 30} {
		t.Run(name, func(t *testing.T) {
			s, addr := serve(t, Options{}, &hooks{frame: echo})
			good := dial(t, addr)
			small, large := framed(make([]byte, 300)), framed(make([]byte, 1<<20))
			good.send(large)
			good.receive()
			before := rss(t)
			fds := crowd(t, addr, attackers)
			eventually(t, "all connected", func() bool { return s.Stats().Conns == attackers+1 })
			head := binary.BigEndian.AppendUint32(nil, 100<<20)
			for _, fd := range fds {
				if _, err := unix.Write(fd, head); err != nil {
					t.Fatal(err)
				}
			}
			junk := make([]byte, 64<<10)
			peak, worstSmall, worstLarge := int64(0), time.Duration(0), time.Duration(0)
			sent := make([]int, len(fds))
			for round := range 40 {
				for i, fd := range fds {
					if n := min(sends-sent[i], len(junk)); n > 0 {
						if k, err := unix.Write(fd, junk[:n]); err == nil {
							sent[i] += k
						}
					}
				}
				start := time.Now()
				good.send(small)
				good.receive()
				worstSmall = max(worstSmall, time.Since(start))
				if round%8 == 0 {
					start = time.Now()
					good.send(large)
					good.receive()
					worstLarge = max(worstLarge, time.Since(start))
					peak = max(peak, rss(t))
				}
			}
			st := s.Stats()
			t.Logf("grew by %d MB, of which %d MB are the budget's; worst small frame %v, worst of 1 MB %v; %d shed, %d times refused",
				(peak-before)/1e6, st.MemoryUsed/1e6, worstSmall, worstLarge, st.ClosedShed, st.Starved)
			if peak-before > 150e6 {
				t.Errorf("grew by %d bytes", peak-before)
			}
			if worstSmall > 2*time.Second || worstLarge > 5*time.Second {
				t.Error("another client was not served")
			}
		})
	}
}

// The same with frames of a size that others need too: those that never finish
// theirs are given up, oldest first.
func TestHalfFramesOfModestSizeAreShedForOthers(t *testing.T) {
	if testing.Short() || raceEnabled {
		t.Skip("takes thousands of connections")
	}
	const attackers = 1500
	needFiles(t, 2*attackers+200)
	s, addr := serve(t, Options{MaxFrameBytes: 1 << 20, TotalMemory: 32 << 20}, &hooks{frame: echo})
	fds := crowd(t, addr, attackers)
	part := framed(make([]byte, 60<<10))[:50<<10]
	for _, fd := range fds {
		_, _ = unix.Write(fd, part)
	}
	eventually(t, "memory is short", func() bool { return s.Stats().Starved > 0 })
	good := dial(t, addr)
	start := time.Now()
	want := bytes.Repeat([]byte{3}, 1<<20)
	good.send(framed(want))
	if b, err := good.tryReceive(5 * time.Second); err != nil || !bytes.Equal(b, want) {
		t.Errorf("a frame of 1 MB: %d bytes, %v", len(b), err)
	}
	st := s.Stats()
	t.Logf("served after %v; %d shed, %d bytes in use", time.Since(start), st.ClosedShed, st.MemoryUsed)
	if st.ClosedShed == 0 || st.MemoryUsed > 34<<20 {
		t.Errorf("%d shed, %d bytes in use", st.ClosedShed, st.MemoryUsed)
	}
}

func TestIdleConnectionsCostLittle(t *testing.T) {
	if testing.Short() || raceEnabled {
		t.Skip("memory is measured without -short and -race only")
	}
	const n = 5000
	needFiles(t, 2*n+200)
	s, addr := serve(t, Options{}, &hooks{frame: echo})
	good := dial(t, addr)
	good.send(framed(nil))
	good.receive()
	before := rss(t)
	fds := crowd(t, addr, n)
	eventually(t, "all connected", func() bool { return s.Stats().Conns == n+1 })
	// Each has been used once.
	for _, fd := range fds {
		_, _ = unix.Write(fd, framed([]byte("hello")))
	}
	eventually(t, "all answered", func() bool { return s.Stats().Frames >= n+1 })
	each := (rss(t) - before) / n
	t.Logf("%d bytes each", each)
	if each > 4<<10 {
		t.Errorf("an idle connection costs %d bytes", each)
	}
	start := time.Now()
	for range 1000 {
		good.send(framed([]byte("x")))
		good.receive()
	}
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("1000 requests beside them took %v", took)
	}
}

// A thousand frames at once on one connection are answered in order with bounded memory.
func TestPipelinedThousands(t *testing.T) {
	s, addr := serve(t, Options{}, &hooks{frame: echo})
	c := dial(t, addr)
	const n = 100_000
	go func() {
		var b []byte
		for i := range n {
			b = binary.BigEndian.AppendUint32(b, 4)
			b = binary.BigEndian.AppendUint32(b, uint32(i))
		}
		_, _ = c.conn.Write(b)
	}()
	for i := range n {
		if b := c.receive(); binary.BigEndian.Uint32(b) != uint32(i) {
			t.Fatalf("answer %d is %x", i, b)
		}
	}
	if used := s.Stats().MemoryUsed; used > 1<<20 {
		t.Errorf("%d bytes are held", used)
	}
}
