package broker

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"reflect"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sys/unix"
)

// rawConn speaks the protocol byte by byte.
type rawConn struct {
	t testing.TB
	net.Conn
}

func dialRaw(t testing.TB, b *Broker) *rawConn {
	t.Helper()
	c, err := net.DialTimeout("tcp", b.Addr().String(), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return &rawConn{t, c}
}

// framed is a request with its size in front.
func framed(req kmsg.Request, corr int32) []byte {
	return kmsg.NewRequestFormatter(kmsg.FormatterClientID("hostile")).AppendRequest(nil, req, corr)
}

// receive reads one answer: its correlation id and what follows.
func (c *rawConn) receive(wait time.Duration) (corr int32, body []byte, err error) {
	_ = c.SetReadDeadline(time.Now().Add(wait))
	var head [8]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return 0, nil, err
	}
	body = make([]byte, binary.BigEndian.Uint32(head[:])-4)
	_, err = io.ReadFull(c, body)
	return int32(binary.BigEndian.Uint32(head[4:])), body, err
}

// needsMemoryFigures skips where memory cannot be compared, and where so many
// descriptors may not be opened.
func needsMemoryFigures(t testing.TB, files uint64) {
	t.Helper()
	if testing.Short() || raceEnabled {
		t.Skip("memory is measured without -short and -race only")
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Cur < files {
		limit.Cur = min(files, limit.Max)
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
	}
	if limit.Cur < files {
		t.Skipf("SKIPPED: %d descriptors are needed, the limit is %d", files, limit.Max)
	}
}

// residentBytes is the memory of this process: the broker and its clients.
func residentBytes(t testing.TB) int64 {
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

// crowd connects n raw sockets; each costs this process a descriptor.
func crowd(t testing.TB, b *Broker, n int) []int {
	t.Helper()
	sa := &unix.SockaddrInet4{Port: b.Addr().(*net.TCPAddr).Port, Addr: [4]byte{127, 0, 0, 1}}
	fds := make([]int, 0, n)
	t.Cleanup(func() {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	})
	for range n {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		fds = append(fds, fd)
		if err := unix.Connect(fd, sa); err != nil {
			t.Fatal(err)
		}
		if err := unix.SetNonblock(fd, true); err != nil {
			t.Fatal(err)
		}
	}
	return fds
}

// clientPatience is when a client gives a request up (Kafka's request.timeout.ms). Honest clients may be slowed down
// by hostile ones and by the machine, but not starved.
const clientPatience = 30 * time.Second

// roundTrips produces and consumes beside whatever else goes on, and tells how
// long the slowest record took.
func roundTrips(t testing.TB, p, c *kgo.Client, n int) (worst time.Duration) {
	t.Helper()
	for i := range n {
		start := time.Now()
		want := fmt.Sprintf("%d-%d", start.UnixNano(), i)
		if err := p.ProduceSync(testContext(t), kgo.StringRecord(want)).FirstErr(); err != nil {
			t.Fatal(err)
		}
		for seen := false; !seen; {
			f := c.PollFetches(testContext(t))
			if err := f.Err(); err != nil {
				t.Fatal(err)
			}
			f.EachRecord(func(r *kgo.Record) { seen = seen || string(r.Value) == want })
		}
		worst = max(worst, time.Since(start))
	}
	return worst
}

// honest is a producer and a consumer that have worked once.
func honest(t testing.TB, b *Broker) (p, c *kgo.Client) {
	t.Helper()
	p, c = client(t, b, kgo.DefaultProduceTopic("honest"), kgo.ProducerLinger(0)), client(t, b, kgo.ConsumeTopics("honest"))
	roundTrips(t, p, c, 20)
	return p, c
}

// The attack that stops Apache Kafka 4.3.1 with its default heap takes 40 such
// connections.
func TestThreeThousandThatAnnounce100MBLeaveOthersServed(t *testing.T) {
	const attackers = 3000
	needsMemoryFigures(t, 2*attackers+300)
	for name, sends := range map[string]int{"and send nothing": 0, "and send a little": 3000, "and send what they can": 1 << 30} {
		t.Run(name, func(t *testing.T) {
			b, _ := startBroker(t, t.TempDir())
			p, c := honest(t, b)
			before := residentBytes(t)
			fds := crowd(t, b, attackers)
			// A Produce header, so that nothing but the size is odd.
			head := binary.BigEndian.AppendUint32(nil, 100<<20-1)
			head = append(head, 0, 0, 0, 9, 0, 0, 0, 1, 0xff, 0xff, 0)
			for _, fd := range fds {
				_, _ = unix.Write(fd, head)
			}
			junk := make([]byte, 64<<10)
			sent := make([]int, len(fds))
			var peak int64
			var worst time.Duration
			for range 6 {
				for i, fd := range fds {
					if n := min(sends-sent[i], len(junk)); n > 0 {
						if k, err := unix.Write(fd, junk[:n]); err == nil {
							sent[i] += k
						}
					}
				}
				worst = max(worst, roundTrips(t, p, c, 3))
				peak = max(peak, residentBytes(t))
			}
			t.Logf("grew by %d MB; slowest record of another client %v", (peak-before)/1e6, worst)
			if peak-before > 150e6 {
				t.Errorf("grew by %d bytes", peak-before)
			}
			if worst > clientPatience {
				t.Errorf("a record of another client took %v", worst)
			}
		})
	}
}

func TestFiveThousandIdleConnectionsCostKilobytes(t *testing.T) {
	const n = 5000
	needsMemoryFigures(t, 2*n+300)
	b, _ := startBroker(t, t.TempDir())
	p, c := honest(t, b)
	before := residentBytes(t)
	fds := crowd(t, b, n)
	hello := framed(kmsg.NewPtrApiVersionsRequest(), 1)
	for _, fd := range fds {
		if _, err := unix.Write(fd, hello); err != nil {
			t.Fatal(err)
		}
	}
	for end := time.Now().Add(10 * time.Second); b.requests[18].Load() < n; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d of %d connections were served", b.requests[18].Load(), n)
		}
	}
	each := (residentBytes(t) - before) / n
	worst := roundTrips(t, p, c, 20)
	t.Logf("%d bytes each; slowest record of another client %v", each, worst)
	if each > 6<<10 {
		t.Errorf("an idle connection costs %d bytes", each)
	}
	if worst > clientPatience {
		t.Errorf("a record of another client took %v", worst)
	}
}

func TestFramesOfImpossibleSizeCloseTheirConnection(t *testing.T) {
	b, _ := startBroker(t, t.TempDir())
	for _, size := range []int32{-1, math.MinInt32, math.MaxInt32, 100<<20 + 1, 0, 1, 7} {
		c := dialRaw(t, b)
		_, _ = c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(size)), make([]byte, max(0, min(size, 64)))...))
		if _, _, err := c.receive(5 * time.Second); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("size %d: %v", size, err)
		}
	}
	honest(t, b)
}

// A frame that arrives byte by byte is a frame.
func TestDribbledRequestIsAnswered(t *testing.T) {
	b, _ := startBroker(t, t.TempDir())
	c := dialRaw(t, b)
	for _, x := range framed(kmsg.NewPtrApiVersionsRequest(), 77) {
		_, _ = c.Write([]byte{x})
		time.Sleep(100 * time.Microsecond)
	}
	if corr, _, err := c.receive(5 * time.Second); corr != 77 || err != nil {
		t.Errorf("answer %d, %v", corr, err)
	}
}

// Readers that ask for much and take nothing neither hold memory nor hold up
// others.
func TestSlowReadersCostBoundedMemory(t *testing.T) {
	const readers, asks = 100, 40
	needsMemoryFigures(t, 1000)
	b, _ := startBroker(t, t.TempDir())
	p, c := honest(t, b)
	bulk := client(t, b, kgo.DefaultProduceTopic("bulk"), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerLinger(0))
	value := bytes.Repeat([]byte{7}, 500_000)
	for range 40 {
		if err := bulk.ProduceSync(testContext(t), &kgo.Record{Value: value}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	ask := kmsg.NewPtrFetchRequest()
	ask.Version, ask.MaxWaitMillis, ask.MinBytes, ask.MaxBytes = 11, 100, 1, 50<<20
	ft, fp := kmsg.NewFetchRequestTopic(), kmsg.NewFetchRequestTopicPartition()
	ft.Topic, fp.PartitionMaxBytes = "bulk", 50<<20
	ft.Partitions = append(ft.Partitions, fp)
	ask.Topics = append(ask.Topics, ft)
	before := residentBytes(t)
	fds := crowd(t, b, readers)
	for i := range asks {
		for _, fd := range fds {
			_, _ = unix.Write(fd, framed(ask, int32(i)))
		}
	}
	var peak int64
	var worst time.Duration
	for range 5 {
		worst = max(worst, roundTrips(t, p, c, 5))
		peak = max(peak, residentBytes(t))
	}
	t.Logf("grew by %d MB; slowest record of another client %v", (peak-before)/1e6, worst)
	if peak-before > 150e6 {
		t.Errorf("grew by %d bytes", peak-before)
	}
	if worst > clientPatience {
		t.Errorf("a record of another client took %v", worst)
	}
}

// Requests of every kind that are sent at once are answered in their order,
// those with acks=0 not at all.
func TestPipelinedThousandsAreAnsweredInOrder(t *testing.T) {
	b, _ := startBroker(t, t.TempDir())
	honest(t, b)
	c := dialRaw(t, b)
	const n = 6000
	var out []byte
	var want []int32
	for i := range int32(n) {
		var req kmsg.Request
		switch i % 6 {
		case 0:
			req = kmsg.NewPtrApiVersionsRequest()
		case 1:
			r := kmsg.NewPtrMetadataRequest()
			r.Version = 9
			req = r
		case 2:
			r := kmsg.NewPtrListOffsetsRequest()
			r.Version = 5
			req = r
		case 3:
			r := kmsg.NewPtrFetchRequest()
			r.Version, r.MaxWaitMillis, r.MinBytes = 11, 1, 1
			req = r
		case 4:
			r := kmsg.NewPtrProduceRequest()
			r.Version = 9
			if r.Acks = 0; i%12 == 4 {
				r.Acks = -1
			}
			req = r
		case 5:
			r := kmsg.NewPtrFindCoordinatorRequest()
			r.Version, r.CoordinatorKey = 2, "g"
			req = r
		}
		if p, ok := req.(*kmsg.ProduceRequest); !ok || p.Acks != 0 {
			want = append(want, i)
		}
		out = append(out, framed(req, i)...)
	}
	go func() { _, _ = c.Write(out) }()
	for _, w := range want {
		corr, _, err := c.receive(10 * time.Second)
		if err != nil || corr != w {
			t.Fatalf("answer %d, want %d: %v", corr, w, err)
		}
	}
}

// Bytes without sense behind every api's header close that connection only.
func TestGarbageClosesOnlyItsConnection(t *testing.T) {
	b, _ := startBroker(t, t.TempDir())
	p, c := honest(t, b)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	for _, row := range apis {
		for v := row.min; v <= row.max; v++ {
			for range 5 {
				body := make([]byte, rng.IntN(300))
				for i := range body {
					switch rng.IntN(4) {
					case 0:
						body[i] = byte(rng.Uint32())
					case 1:
						body[i] = 0xff
					}
				}
				f := binary.BigEndian.AppendUint16(make([]byte, 4), uint16(row.key))
				f = binary.BigEndian.AppendUint16(f, uint16(v))
				f = append(f, 0, 0, 0, 1, 0xff, 0xff)
				if v >= row.flexible {
					f = append(f, 0)
				}
				f = append(f, body...)
				binary.BigEndian.PutUint32(f, uint32(len(f)-4))
				g := dialRaw(t, b)
				_, _ = g.Write(f)
				_ = g.Close()
			}
		}
	}
	if worst := roundTrips(t, p, c, 5); worst > clientPatience {
		t.Errorf("a record of another client took %v", worst)
	}
}

// fill gives a request random content that is well formed.
func fill(rng *rand.Rand, v reflect.Value) {
	numbers := []int64{-1, 0, 1, 2, 3, math.MaxInt16, math.MaxInt32, math.MaxInt64, math.MinInt64, rng.Int64(), -rng.Int64()}
	words := []string{"", "honest", "g", "honest", "__consumer_offsets", "a/b", "..", "1", "retention.ms", "range", "consumer", strings.Repeat("x", 300)}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() && f.Name != "Version" && f.Name != "UnknownTags" {
				fill(rng, v.Field(i))
			}
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			b := make([]byte, rng.IntN(80))
			for i := range b {
				b[i] = byte(rng.IntN(256) * rng.IntN(2))
			}
			v.SetBytes(b)
			return
		}
		if n := rng.IntN(5) - 1; n >= 0 {
			v.Set(reflect.MakeSlice(v.Type(), n, n))
			for i := range n {
				fill(rng, v.Index(i))
			}
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(rng, v.Index(i))
		}
	case reflect.Pointer:
		if rng.IntN(3) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			fill(rng, v.Elem())
		}
	case reflect.String:
		v.SetString(words[rng.IntN(len(words))])
	case reflect.Bool:
		v.SetBool(rng.IntN(2) == 0)
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(numbers[rng.IntN(len(numbers))])
	case reflect.Uint8, reflect.Uint16, reflect.Uint32:
		v.SetUint(uint64(rng.Uint32() & 0xff))
	case reflect.Float64:
		v.SetFloat(rng.NormFloat64())
	default: // no request has one
	}
}

// Well-formed requests of every api and version, with random content, are
// answered in a form that a client can read, or close their connection.
func TestRandomRequestsAreAnsweredOrClosed(t *testing.T) {
	b, _ := startBroker(t, t.TempDir())
	honest(t, b)
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("HOSTILE_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	t.Logf("seed %d (HOSTILE_SEED repeats it)", seed)
	var next atomic.Int64
	var wg sync.WaitGroup
	const total = 3000
	for w := range 16 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(w)))
			for next.Add(1) <= total {
				row := apis[rng.IntN(len(apis))]
				req := kmsg.RequestForKey(row.key)
				fill(rng, reflect.ValueOf(req).Elem())
				v := row.min + int16(rng.IntN(int(row.max-row.min)+1))
				req.SetVersion(v)
				wait := 10 * time.Second
				silent := false
				switch r := req.(type) {
				case *kmsg.FetchRequest:
					r.MaxWaitMillis = int32(rng.IntN(20))
				case *kmsg.ProduceRequest:
					silent = r.Acks == 0
				case *kmsg.JoinGroupRequest, *kmsg.SyncGroupRequest:
					wait, silent = 20*time.Millisecond, true // may wait for others
				}
				if silent {
					wait = 20 * time.Millisecond
				}
				c := dialRaw(t, b)
				_, _ = c.Write(framed(req, 5))
				corr, body, err := c.receive(wait)
				_ = c.Close()
				if errors.Is(err, os.ErrDeadlineExceeded) {
					if !silent {
						t.Errorf("%s version %d: no answer in %v to %+v", kmsg.NameForKey(row.key), v, wait, req)
					}
					continue
				}
				if err != nil {
					continue // closed
				}
				if req.IsFlexible() && row.key != 18 {
					if len(body) == 0 || body[0] != 0 {
						t.Errorf("%s version %d: no tags in the header of the answer", kmsg.NameForKey(row.key), v)
						continue
					}
					body = body[1:]
				}
				resp := req.ResponseKind()
				if err := resp.ReadFrom(body); corr != 5 || err != nil {
					t.Errorf("%s version %d: answer %d, %v, to %+v", kmsg.NameForKey(row.key), v, corr, err, req)
				}
			}
		})
	}
	wg.Wait()
	honest(t, b)
}
