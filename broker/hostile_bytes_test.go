package broker

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/engine/batch"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// attack sends bytes on a connection of its own and returns what came back before
// the broker closed it, or before the wait was over.
func attack(t testing.TB, b *Broker, out []byte, wait time.Duration) (in []byte, closed bool) {
	t.Helper()
	c, err := net.DialTimeout("tcp", b.Addr().String(), 5*time.Second)
	if err != nil {
		t.Error(err)
		return nil, false
	}
	defer func() { _ = c.Close() }()
	_, _ = c.Write(out)
	_ = c.SetReadDeadline(time.Now().Add(wait))
	in, err = io.ReadAll(c)
	return in, !errors.Is(err, os.ErrDeadlineExceeded)
}

// inParallel runs f for every request in a few goroutines.
func inParallel(requests [][]byte, f func(request []byte)) {
	var wg sync.WaitGroup
	next := make(chan []byte)
	for range 16 {
		wg.Go(func() {
			for r := range next {
				f(r)
			}
		})
	}
	for _, r := range requests {
		next <- r
	}
	close(next)
	wg.Wait()
}

// validFrames are one valid request of every api in its versions.
func validFrames(a *apiCaller, versions func(row *api) []int16) (frames [][]byte) {
	for i := range apis {
		for _, v := range versions(&apis[i]) {
			frames = append(frames, framed(a.valid(apis[i].key, v), 1))
		}
	}
	return frames
}

// A request that ends too early, wherever it does, closes its connection: it is
// never waited for, and never half carried out and answered.
func TestRequestsCutAtEveryByteCloseTheirConnection(t *testing.T) {
	a := newAPICaller(t)
	var cuts [][]byte
	for _, f := range validFrames(a, func(row *api) (all []int16) {
		for v := row.min; v <= row.max; v++ {
			all = append(all, v)
		}
		return all
	}) {
		for n := 4; n < len(f); n++ {
			cut := append([]byte(nil), f[:n]...)
			binary.BigEndian.PutUint32(cut, uint32(n-4))
			cuts = append(cuts, cut)
		}
	}
	inParallel(cuts, func(cut []byte) {
		if in, closed := attack(t, a.b, cut, 10*time.Second); !closed || len(in) > 0 {
			t.Errorf("api key %d version %d cut at %d: closed %v, answer %x", cut[5], cut[7], len(cut), closed, in)
		}
	})
	t.Logf("%d requests", len(cuts))
	honest(t, a.b)
}

// Wherever a request says a length or a number, it may lie.
func TestRequestsThatLieAtEveryByteAreAnsweredOrClosed(t *testing.T) {
	a := newAPICaller(t)
	var lies [][]byte
	for _, f := range validFrames(a, func(row *api) []int16 { return []int16{row.min, row.max} }) {
		for n := 8; n < len(f); n++ {
			for _, lie := range [][]byte{{0xff, 0xff, 0xff, 0xff}, {0x7f, 0xff, 0xff, 0xff}, {0xff, 0xff, 0xff, 0xff, 0x0f}} {
				bad := append([]byte(nil), f...)
				copy(bad[n:], lie)
				lies = append(lies, bad)
			}
		}
	}
	inParallel(lies, func(bad []byte) {
		// Some wait for as long as they say; what comes must be a whole frame.
		in, closed := attack(t, a.b, bad, 3*time.Millisecond)
		if closed && len(in) >= 4 && int(binary.BigEndian.Uint32(in)) != len(in)-4 {
			t.Errorf("api key %d version %d: %d bytes came of a frame of %d", bad[5], bad[7], len(in), binary.BigEndian.Uint32(in))
		}
	})
	t.Logf("%d requests", len(lies))
	honest(t, a.b)
}

// Others knock at the port, too.
func TestOtherProtocolsAreTurnedAway(t *testing.T) {
	b, _ := startBroker(t, t.TempDir())
	p, c := honest(t, b)
	for name, hello := range map[string]string{
		"TLS":    "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("x", 512),
		"HTTP":   "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"HTTP/2": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"SSH":    "SSH-2.0-OpenSSH_9.6\r\n",
		"Redis":  "*1\r\n$4\r\nPING\r\n",
	} {
		if in, closed := attack(t, b, []byte(hello), 5*time.Second); !closed || len(in) > 0 {
			t.Errorf("%s: closed %v, answer %q", name, closed, in)
		}
	}
	roundTrips(t, p, c, 3)
}

// Clients that come and go by the thousand, some with requests under way.
func TestConnectionStormLeavesNothingBehind(t *testing.T) {
	b, _ := startBroker(t, t.TempDir())
	p, c := honest(t, b)
	fetch := kmsg.NewPtrFetchRequest()
	fetch.Version, fetch.MaxWaitMillis, fetch.MinBytes, fetch.MaxBytes = 11, 300, 1<<30, 1<<20
	ft, fp := kmsg.NewFetchRequestTopic(), kmsg.NewFetchRequestTopicPartition()
	ft.Topic, fp.PartitionMaxBytes = "honest", 1<<20
	ft.Partitions = append(ft.Partitions, fp)
	fetch.Topics = append(fetch.Topics, ft)
	waiting := framed(fetch, 1)
	join := kmsg.NewPtrJoinGroupRequest()
	join.Version, join.Group, join.ProtocolType, join.SessionTimeoutMillis, join.RebalanceTimeoutMillis = 3, "storm", "consumer", 6000, 6000
	join.Protocols = append(join.Protocols, kmsg.JoinGroupRequestProtocol{Name: "range", Metadata: []byte{0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}})
	many := make([]byte, 0, 1<<20)
	for i := range int32(500) {
		many = append(many, framed(kmsg.NewPtrApiVersionsRequest(), i)...)
		many = append(many, waiting...)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := w; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				conn, err := net.DialTimeout("tcp", b.Addr().String(), 5*time.Second)
				if err != nil {
					t.Error(err)
					return
				}
				switch i % 6 {
				case 0:
				case 1:
					_, _ = conn.Write(waiting)
				case 2:
					_, _ = conn.Write(many) // and goes without reading
				case 3:
					_, _ = conn.Write(framed(join, 1))
				case 4:
					_, _ = conn.Write(waiting[:len(waiting)/2])
				case 5:
					_ = conn.(*net.TCPConn).SetLinger(0) // a reset
					_, _ = conn.Write(many[:len(many)/2])
				}
				_ = conn.Close()
			}
		})
	}
	worst := time.Duration(0)
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
		worst = max(worst, roundTrips(t, p, c, 3))
	}
	close(stop)
	wg.Wait()
	if t.Logf("slowest record of another client %v", worst); worst > clientPatience {
		t.Errorf("a record of another client took %v", worst)
	}
	// The storm's connections are gone once the last of them has been looked at.
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		n := b.net.Stats().Conns
		if n <= 10 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d connections are still there", n)
		}
	}
}

// badBatch is one way in which a produced batch can be wrong. change gets a batch
// of three records, uncompressed; its CRC is put right afterwards.
type badBatch struct {
	name   string
	code   int16
	change func(raw []byte) []byte
}

// Where the fields of a batch are.
const (
	atLength     = 8
	atMagic      = 16
	atCRC        = 17
	atAttributes = 21
	atLastDelta  = 23
	atProducerID = 43
	atCount      = 57
	atRecords    = 61
)

var badBatches = []badBatch{
	{"last offset delta too small", errInvalidRecord, func(r []byte) []byte { return put32(r, atLastDelta, 1) }},
	{"last offset delta too large", errInvalidRecord, func(r []byte) []byte { return put32(r, atLastDelta, 9) }},
	{"last offset delta negative", errInvalidRecord, func(r []byte) []byte { return put32(r, atLastDelta, -1) }},
	{"no records", errInvalidRecord, func(r []byte) []byte { return put32(r, atCount, 0) }},
	{"records negative", errInvalidRecord, func(r []byte) []byte { return put32(r, atCount, -1) }},
	{"four billion records", errInvalidRecord, func(r []byte) []byte { return put32(put32(r, atCount, math.MaxInt32), atLastDelta, math.MaxInt32-1) }},
	{"fewer records than said", errInvalidRecord, func(r []byte) []byte { return put32(put32(r, atCount, 4), atLastDelta, 3) }},
	{"more records than said", errInvalidRecord, func(r []byte) []byte { return put32(put32(r, atCount, 2), atLastDelta, 1) }},
	{"record longer than the batch", errInvalidRecord, func(r []byte) []byte { r[atRecords] = 0x7e; return r }},
	{"record of negative length", errInvalidRecord, func(r []byte) []byte { r[atRecords] = 0x01; return r }},
	{"second record has the first's offset", errInvalidRecord, func(r []byte) []byte { r[secondRecord(r)+3] = 0; return r }},
	{"bytes behind the records", errInvalidRecord, func(r []byte) []byte { return put32(append(r, 0), atLength, int32(len(r)+1-12)) }},
	{"length negative", errCorruptMessage, func(r []byte) []byte { return put32(r, atLength, -1) }},
	{"length zero", errCorruptMessage, func(r []byte) []byte { return put32(r, atLength, 0) }},
	{"length huge", errCorruptMessage, func(r []byte) []byte { return put32(r, atLength, math.MaxInt32) }},
	{"length one short", errInvalidRecord, func(r []byte) []byte { return put32(r, atLength, int32(len(r)-13)) }},
	{"magic 3", errInvalidRecord, func(r []byte) []byte { r[atMagic] = 3; return r }},
	{"magic 0", errInvalidRecord, func(r []byte) []byte { r[atMagic] = 0; return r }},
	{"header only", errCorruptMessage, func(r []byte) []byte { return r[:atRecords-1] }},
	{"control batch", errInvalidRecord, func(r []byte) []byte { r[atAttributes+1] |= 0x20; return r }},
	{"transactional without a transaction", errInvalidTxnState, func(r []byte) []byte {
		r[atAttributes+1] |= 0x10
		binary.BigEndian.PutUint64(r[atProducerID:], 5)
		binary.BigEndian.PutUint16(r[atProducerID+8:], 0)
		return put32(r, atProducerID+10, 0)
	}},
	{"a codec that does not exist", errInvalidRecord, func(r []byte) []byte { r[atAttributes+1] |= 7; return r }},
}

func put32(b []byte, at int, v int32) []byte {
	binary.BigEndian.PutUint32(b[at:], uint32(v))
	return b
}

// secondRecord is where the second record begins.
func secondRecord(r []byte) int {
	n, used := binary.Varint(r[atRecords:])
	return atRecords + used + int(n)
}

// Each kind of bad batch gets an error of its own, and never reaches a consumer.
func TestBatchesThatAreWrongInsideAreRefused(t *testing.T) {
	a := newAPICaller(t)
	for _, bad := range badBatches {
		req := a.valid(0, 13).(*kmsg.ProduceRequest)
		builder := batch.NewBuilder(0, 0)
		for range 3 {
			builder.Append(time.Now().UnixMilli(), []byte("k"), []byte("v"), nil)
		}
		raw := bad.change(builder.Build())
		if len(raw) > atRecords {
			binary.BigEndian.PutUint32(raw[atCRC:], crc32.Checksum(raw[atAttributes:], crc32.MakeTable(crc32.Castagnoli)))
		}
		good := req.Topics[0].Partitions[0].Records
		req.Topics[0].Partitions[0].Records = raw
		p := a.call(req).(*kmsg.ProduceResponse).Topics[0].Partitions[0]
		if p.ErrorCode != bad.code || p.BaseOffset != -1 {
			t.Errorf("%s: error code %d, want %d, offset %d, %v", bad.name, p.ErrorCode, bad.code, p.BaseOffset, p.ErrorMessage)
		}
		req.Topics[0].Partitions[0].Records = good
		if p := a.call(req).(*kmsg.ProduceResponse).Topics[0].Partitions[0]; p.ErrorCode != 0 {
			t.Fatalf("%s: the next good batch got %d", bad.name, p.ErrorCode)
		}
	}
}

// manyPartitions is a Fetch that names one partition many times and waits.
func manyPartitions(topic string, n int, offset int64) *kmsg.FetchRequest {
	f := kmsg.NewPtrFetchRequest()
	f.Version, f.MaxWaitMillis, f.MinBytes, f.MaxBytes, f.SessionEpoch = 11, 20_000, 1<<30, 1<<20, 0
	ft := kmsg.NewFetchRequestTopic()
	ft.Topic = topic
	for range n {
		fp := kmsg.NewFetchRequestTopicPartition()
		fp.FetchOffset, fp.CurrentLeaderEpoch, fp.PartitionMaxBytes = offset, -1, 1<<20
		ft.Partitions = append(ft.Partitions, fp)
	}
	f.Topics = append(f.Topics, ft)
	return f
}

// A few megabytes of request must not become gigabytes that wait.
func TestFetchesOfManyPartitionsCostBoundedMemory(t *testing.T) {
	const clients, partitions = 60, 60_000
	needsMemoryFigures(t, 500)
	b, _ := startBroker(t, t.TempDir())
	p, c := honest(t, b)
	before := residentBytes(t)
	out := framed(manyPartitions("honest", partitions, 20), 1)
	var wg sync.WaitGroup
	for range clients {
		conn := dialRaw(t, b)
		wg.Go(func() { _, _ = conn.Write(out) })
	}
	wg.Wait()
	var peak int64
	worst := time.Duration(0)
	for range 5 {
		worst = max(worst, roundTrips(t, p, c, 2))
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

// distinctPartitions is a Fetch of partitions 0 to n-1 that waits.
func distinctPartitions(topic string, n int, session, epoch int32) *kmsg.FetchRequest {
	f := manyPartitions(topic, n, 0)
	for i := range f.Topics[0].Partitions {
		f.Topics[0].Partitions[i].Partition = int32(i)
	}
	f.SessionID, f.SessionEpoch = session, epoch
	return f
}

// Beyond what all waiting requests may hold, one is answered at once; beyond what
// sessions may, there is none.
func TestWaitingFetchesAndSessionsAreBounded(t *testing.T) {
	a := newAPICaller(t, func(o *Options) { o.fetchParts = 30 })
	if _, err := a.adm.CreateTopic(testContext(t), 20, 1, nil, "wide"); err != nil {
		t.Fatal(err)
	}
	first := dialRaw(t, a.b)
	_, _ = first.Write(framed(distinctPartitions("wide", 20, 0, 0), 1))
	for end := time.Now().Add(5 * time.Second); a.b.fetchWaiting.Load() != 20; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d partitions wait", a.b.fetchWaiting.Load())
		}
	}
	began := time.Now()
	r := a.call(distinctPartitions("wide", 20, 0, 0)).(*kmsg.FetchResponse)
	if time.Since(began) > 15*time.Second || len(r.Topics) != 1 || len(r.Topics[0].Partitions) != 20 || r.SessionID != 0 {
		t.Errorf("after %v: %+v", time.Since(began), r)
	}
	_ = first.Close() // long before its max.wait
	for end := time.Now().Add(5 * time.Second); a.b.fetchWaiting.Load() != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d partitions wait for a client that is gone", a.b.fetchWaiting.Load())
		}
	}
}

// A session is not lost to a request that turns out to be damaged.
func TestDamagedFetchGivesItsSessionBack(t *testing.T) {
	a := newAPICaller(t)
	for range 3 {
		open := distinctPartitions(apisTopic, 1, 0, 0)
		open.MinBytes = 1
		id := a.call(open).(*kmsg.FetchResponse).SessionID
		if id == 0 {
			t.Fatal("no session")
		}
		f := framed(distinctPartitions(apisTopic, 1, id, 1), 1)
		f = f[:len(f)-8]
		binary.BigEndian.PutUint32(f, uint32(len(f)-4))
		if in, closed := attack(t, a.b, f, 5*time.Second); len(in) > 0 || !closed {
			t.Errorf("closed %v, answer %x", closed, in)
		}
	}
	if n := a.b.sessions.count(); n != 0 || a.b.sessions.parts != 0 {
		t.Errorf("%d sessions of %d partitions are left", n, a.b.sessions.parts)
	}
}

// Six bytes make a partition of a Produce request.
func TestProduceOfMillionsOfPartitionsIsRefused(t *testing.T) {
	b, _ := startBroker(t, t.TempDir())
	p, c := honest(t, b)
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks = 9, -1
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic, rt.Partitions = "honest", make([]kmsg.ProduceRequestTopicPartition, producePartitionsMax+1)
	req.Topics = append(req.Topics, rt)
	if in, closed := attack(t, b, framed(req, 1), 10*time.Second); len(in) > 0 || !closed {
		t.Errorf("closed %v, answer of %d bytes", closed, len(in))
	}
	roundTrips(t, p, c, 3)
}
