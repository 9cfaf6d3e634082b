package transport

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/raftio"
	pb "github.com/lni/dragonboat/v4/raftpb"
)

func identity(node int32) Identity {
	return Identity{
		ClusterID: "c", NodeID: node, ReplicaID: uint64(node), DirectoryID: ID{byte(node)}, Incarnation: ID{byte(node), 1},
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// open starts a transport on loopback.
func open(t *testing.T, self Identity, change func(*Options)) *Transport {
	t.Helper()
	l, err := Listen("127.0.0.1:0")
	must(t, err)
	o := Options{Listener: l, Self: func() Identity { return self }, HandshakeTimeout: 2 * time.Second}
	if change != nil {
		change(&o)
	}
	tr := New(o)
	tr.Start()
	t.Cleanup(func() { _ = tr.Close() })
	return tr
}

func to(tr *Transport, node int32) Target {
	return Target{Addr: tr.Addr().String(), NodeID: node, ReplicaID: uint64(node)}
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestStreamsOfAnyKindShareThePort(t *testing.T) {
	a, b := open(t, identity(1), nil), open(t, identity(2), nil)
	got := make(chan string, 2)
	for _, kind := range []Kind{KindFirstFree, KindFirstFree + 1} {
		b.Register(kind, func(c *Conn) {
			for {
				_, p, err := c.ReadFrame(1 << 20)
				if err != nil {
					return
				}
				got <- fmt.Sprint(c.Kind(), c.Peer().NodeID, len(p))
				must(t, c.WriteFrame(7, []byte("back")))
			}
		})
	}
	for _, kind := range []Kind{KindFirstFree, KindFirstFree + 1} {
		c, err := a.Dial(within(t, 5*time.Second), to(b, 2), kind)
		must(t, err)
		for _, n := range []int{0, 1, 100, 1 << 20} {
			must(t, c.WriteFrame(1, make([]byte, n/2), make([]byte, n-n/2)))
			if s := <-got; s != fmt.Sprint(kind, 1, n) {
				t.Fatal(s)
			}
			if typ, p, err := c.ReadFrame(10); err != nil || typ != 7 || string(p) != "back" {
				t.Fatal(typ, p, err)
			}
		}
		must(t, c.Close())
	}
}

func TestHandshakeRefusesWhoDoesNotFit(t *testing.T) {
	wiped := ID{99}
	admit := func(p Identity, _ Kind) *Refusal {
		if p.ReplicaID == 1 && p.DirectoryID == wiped {
			return Refuse(RefusedDirectory, "replica 1 has directory %s", ID{1})
		}
		return nil
	}
	for name, c := range map[string]struct {
		code   RefusalCode
		client func(*Identity, *Options)
		server func(*Identity, *Options)
		target func(*Target)
	}{
		"another cluster":        {code: RefusedCluster, client: func(i *Identity, _ *Options) { i.ClusterID = "other" }},
		"another node there":     {code: RefusedNode, target: func(t *Target) { t.NodeID = 5 }},
		"another replica there":  {code: RefusedNode, target: func(t *Target) { t.ReplicaID = 5 }},
		"a wiped directory":      {code: RefusedDirectory, client: func(i *Identity, _ *Options) { i.DirectoryID = wiped }},
		"the same id twice":      {code: RefusedSelf, client: func(i *Identity, _ *Options) { i.ReplicaID = 2 }},
		"other bootstrap lists":  {code: RefusedMembers, client: func(i *Identity, _ *Options) { i.Members = "1,2" }, server: func(i *Identity, _ *Options) { i.Members = "1,2,3" }},
		"no secret":              {code: RefusedSecret, server: func(_ *Identity, o *Options) { o.Secret = []byte("x") }},
		"a secret too many":      {code: RefusedSecret, client: func(_ *Identity, o *Options) { o.Secret = []byte("x") }},
		"another secret":         {code: RefusedSecret, client: func(_ *Identity, o *Options) { o.Secret = []byte("y") }, server: func(_ *Identity, o *Options) { o.Secret = []byte("x") }},
		"nobody for this stream": {code: RefusedKind, server: func(_ *Identity, o *Options) { o.MaxConns = 7 }},
	} {
		t.Run(name, func(t *testing.T) {
			ci, si := identity(1), identity(2)
			var told *Refusal
			a := open(t, ci, func(o *Options) {
				if c.client != nil {
					c.client(&ci, o)
				}
				o.Self = func() Identity { return ci }
				o.Refused = func(_ Target, r *Refusal) { told = r }
			})
			b := open(t, si, func(o *Options) {
				if c.server != nil {
					c.server(&si, o)
				}
				o.Self, o.Admit = func() Identity { return si }, admit
			})
			if c.code != RefusedKind {
				b.Register(KindFirstFree, func(*Conn) { t.Error("served") })
			}
			target := to(b, 2)
			if c.target != nil {
				c.target(&target)
			}
			_, err := a.Dial(within(t, 5*time.Second), target, KindFirstFree)
			var r *Refusal
			if !errors.As(err, &r) || r.Code != c.code {
				t.Fatalf("%v, want %s", err, c.code)
			}
			if r.ByPeer && told != r {
				t.Error("Options.Refused was not told")
			}
			t.Log(err)
		})
	}
}

func TestBothEndsKnowTheSecret(t *testing.T) {
	secret := func(o *Options) { o.Secret = []byte("open sesame") }
	a, b := open(t, identity(1), secret), open(t, identity(2), secret)
	b.Serve(1, func(_ context.Context, _ Identity, body []byte) ([]byte, error) { return body, nil })
	if got, err := a.Call(within(t, 5*time.Second), to(b, 2), 1, []byte("x")); err != nil || string(got) != "x" {
		t.Fatal(got, err)
	}
}

func TestCallsShareAConnectionAndEndWithIt(t *testing.T) {
	a, b := open(t, identity(1), nil), open(t, identity(2), nil)
	b.Serve(1, func(_ context.Context, p Identity, body []byte) ([]byte, error) {
		return fmt.Appendf(nil, "%d:%s", p.NodeID, body), nil
	})
	b.Serve(2, func(context.Context, Identity, []byte) ([]byte, error) { return nil, errors.New("no luck") })
	hang := make(chan struct{})
	b.Serve(3, func(ctx context.Context, _ Identity, _ []byte) ([]byte, error) {
		close(hang)
		<-ctx.Done()
		return nil, ctx.Err()
	})
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			got, err := a.Call(within(t, 10*time.Second), to(b, 2), 1, fmt.Append(nil, i))
			if err != nil || string(got) != fmt.Sprintf("1:%d", i) {
				t.Error(string(got), err)
			}
		})
	}
	wg.Wait()
	var said *CallError
	if _, err := a.Call(within(t, 5*time.Second), to(b, 2), 2, nil); !errors.As(err, &said) || said.Text != "no luck" {
		t.Fatal(err)
	}
	if _, err := a.Call(within(t, 5*time.Second), to(b, 2), 9, nil); !errors.Is(err, ErrNoMethod) {
		t.Fatal(err)
	}
	b.mu.Lock()
	n := len(b.conns)
	b.mu.Unlock()
	if n != 1 {
		t.Fatalf("%d connections", n)
	}
	closed := make(chan struct{})
	go func() {
		<-hang
		_ = b.Close()
		close(closed)
	}()
	if _, err := a.Call(within(t, 20*time.Second), to(b, 2), 3, nil); err == nil {
		t.Fatal("answered by a closed node")
	}
	<-closed
	if _, err := a.Call(within(t, 2*time.Second), to(b, 2), 1, nil); err == nil {
		t.Fatal("answered by a closed node")
	}
}

// badPacket is the one that ended a process with the stock transport: a header that promises 2^46 bytes.
func badPacket() []byte {
	b := make([]byte, 20)
	b[0], b[1] = 0xAE, 0x7D
	binary.BigEndian.PutUint16(b[2:], 100)
	binary.BigEndian.PutUint64(b[4:], 1<<46)
	binary.BigEndian.PutUint32(b[16:], crc32.ChecksumIEEE(b[:16]))
	return b
}

func TestMalformedPacketsNeitherEndNorFillTheProcess(t *testing.T) {
	huge := func(size uint32) []byte {
		var h [frameHeader]byte
		must(t, putHeader(&h, frameHello))
		binary.LittleEndian.PutUint32(h[4:], size)
		binary.LittleEndian.PutUint32(h[12:], crc32.Checksum(h[:12], castagnoli))
		return h[:]
	}
	b := open(t, identity(2), func(o *Options) { o.HandshakeTimeout = 300 * time.Millisecond })
	b.Serve(1, func(_ context.Context, _ Identity, body []byte) ([]byte, error) { return body, nil })
	for _, packet := range [][]byte{badPacket(), huge(1<<32 - 1), huge(maxHelloBytes + 1), huge(100), {0x16, 3, 1}, []byte("GET / HTTP/1.1\r\n\r\n"), {}} {
		c, err := net.Dial("tcp", b.Addr().String())
		must(t, err)
		_, _ = c.Write(packet)
		must(t, c.SetReadDeadline(time.Now().Add(5*time.Second)))
		if _, err := io.ReadAll(c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%x: the connection stays open", packet)
		}
		_ = c.Close()
	}
	a := open(t, identity(1), nil)
	if _, err := a.Call(within(t, 5*time.Second), to(b, 2), 1, nil); err != nil {
		t.Fatalf("the port does not serve any more: %v", err)
	}
}

func TestStrangersAreFew(t *testing.T) {
	b := open(t, identity(2), func(o *Options) { o.MaxHandshakes, o.HandshakeTimeout = 4, 10*time.Second })
	closed := 0
	for range 12 {
		c, err := net.Dial("tcp", b.Addr().String())
		must(t, err)
		defer func() { _ = c.Close() }()
		must(t, c.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
		if _, err := c.Read(make([]byte, 1)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			closed++
		}
	}
	if closed != 8 {
		t.Fatalf("%d of 12 were turned away, want 8", closed)
	}
}

func TestFramesAreCheckedAndCapped(t *testing.T) {
	var h [frameHeader]byte
	payload := bytes.Repeat([]byte("x"), 200_000)
	must(t, putHeader(&h, 3, payload[:1000], payload[1000:]))
	whole := append(h[:], payload...)
	if kind, p, err := readFrame(bytes.NewReader(whole), len(payload)); err != nil || kind != 3 || !bytes.Equal(p, payload) {
		t.Fatal(kind, err)
	}
	if _, _, err := readFrame(bytes.NewReader(whole), len(payload)-1); !errors.Is(err, ErrFrameTooLarge) {
		t.Fatal(err)
	}
	if _, _, err := readFrame(bytes.NewReader(whole[:len(whole)-1]), len(payload)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatal(err)
	}
	short := append(append([]byte(nil), whole[:frameHeader]...), payload[:64]...)
	must(t, putHeader((*[frameHeader]byte)(short), 3, payload[:64]))
	for i := range short {
		for bit := range 8 {
			short[i] ^= 1 << bit
			if _, _, err := readFrame(bytes.NewReader(short), 1<<20); err == nil {
				t.Fatalf("byte %d bit %d: accepted", i, bit)
			}
			short[i] ^= 1 << bit
		}
	}
	if err := putHeader(&h, 1, make([]byte, MaxFrameBytes+1)); !errors.Is(err, ErrFrameTooLarge) {
		t.Fatal(err)
	}
}

func TestQueueDropsItsOldest(t *testing.T) {
	p := &raftPeer{}
	for i := range 10 {
		p.push([]byte{byte(i)}, 4, 100)
	}
	b, ok := p.pop()
	if !ok || b[0] != 6 || p.lost != 6 || len(p.queue) != 3 {
		t.Fatalf("%v %v lost %d, %d left", b, ok, p.lost, len(p.queue))
	}
	p.push(make([]byte, 99), 4, 100)
	if len(p.queue) != 2 || p.bytes != 100 {
		t.Fatalf("%d left with %d bytes", len(p.queue), p.bytes)
	}
	p.push(make([]byte, 1000), 4, 100)
	if len(p.queue) != 1 {
		t.Fatal("one that is larger than the queue must pass alone")
	}
}

// raftPair is two transports as dragonboat sees them.
type raftPair struct {
	a, b     raftio.ITransport
	ta, tb   *Transport
	toA, toB chan pb.MessageBatch
	chunks   chan pb.Chunk
}

func newRaftPair(t *testing.T, change func(*Options)) *raftPair {
	p := &raftPair{toA: make(chan pb.MessageBatch, 10000), toB: make(chan pb.MessageBatch, 10000), chunks: make(chan pb.Chunk, 100)}
	resolve := func(id uint64) (Target, bool) {
		switch id {
		case 1:
			return to(p.ta, 1), true
		case 2:
			return to(p.tb, 2), true
		}
		return Target{}, false
	}
	with := func(o *Options) {
		o.Resolve = resolve
		o.PingInterval, o.SilenceTimeout = 50*time.Millisecond, 500*time.Millisecond
		if change != nil {
			change(o)
		}
	}
	p.ta, p.tb = open(t, identity(1), with), open(t, identity(2), with)
	c := config.NodeHostConfig{DeploymentID: 5}
	p.a = Factory{p.ta, 1, 1}.Create(c, func(b pb.MessageBatch) { p.toA <- b }, func(pb.Chunk) bool { return true })
	p.b = Factory{p.tb, 1, 2}.Create(c, func(b pb.MessageBatch) { p.toB <- b }, func(c pb.Chunk) bool { p.chunks <- c; return true })
	must(t, p.a.Start())
	must(t, p.b.Start())
	p.ta.ServeRaft()
	p.tb.ServeRaft()
	t.Cleanup(func() { _, _ = p.a.Close(), p.b.Close() })
	return p
}

func heartbeat(term uint64) pb.MessageBatch {
	return pb.MessageBatch{
		DeploymentId: 5, BinVer: raftio.TransportBinVersion, SourceAddress: ReplicaName(1),
		Requests: []pb.Message{{Type: pb.Heartbeat, From: 1, To: 2, ShardID: 1, Term: term}},
	}
}

func TestRaftMessagesArriveAndSurviveALostConnection(t *testing.T) {
	p := newRaftPair(t, nil)
	c, err := p.a.GetConnection(context.Background(), ReplicaName(2))
	must(t, err)
	for i := range 100 {
		must(t, c.SendMessageBatch(heartbeat(uint64(i+1))))
	}
	for i := range 100 {
		if b := <-p.toB; b.Requests[0].Term != uint64(i+1) {
			t.Fatalf("message %d is of term %d", i, b.Requests[0].Term)
		}
	}
	// All connections are cut: raft hears of it, and what is sent later arrives.
	p.tb.mu.Lock()
	for c := range p.tb.conns {
		go func() { _ = c.Close() }()
	}
	p.tb.mu.Unlock()
	if b := <-p.toA; b.Requests[0].Type != pb.Unreachable || b.Requests[0].From != 2 {
		t.Fatalf("%+v", b)
	}
	deadline := time.After(10 * time.Second)
	for {
		must(t, c.SendMessageBatch(heartbeat(1000)))
		select {
		case <-p.toB:
			return
		case <-deadline:
			t.Fatal("nothing arrives after a reconnect")
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// A frozen or unplugged peer acknowledges nothing, and TCP alone would notice in minutes.
func TestSilentPeerIsNoticed(t *testing.T) {
	frozen, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = frozen.Close() }()
	b := New(Options{Self: func() Identity { return identity(2) }})
	b.Register(KindFirstFree, func(*Conn) {})
	go func() {
		raw, err := frozen.Accept()
		if err != nil {
			return
		}
		c := newConn(raw, time.Second)
		_, _ = b.welcome(c)
		time.Sleep(10 * time.Second) // and reads nothing
	}()
	a := open(t, identity(1), nil)
	c, err := a.Dial(within(t, 5*time.Second), Target{Addr: frozen.Addr().String(), NodeID: 2}, KindFirstFree)
	must(t, err)
	go c.KeepAlive(20*time.Millisecond, 200*time.Millisecond)
	if _, _, err := c.ReadFrame(10); err == nil {
		t.Fatal("a frame from a frozen peer")
	}
	if <-c.Done(); !errors.Is(c.reason, ErrSilent) {
		t.Fatal(c.reason)
	}
}

func testChunk(id, count uint64, size int) pb.Chunk {
	return pb.Chunk{
		DeploymentId: 5, BinVer: raftio.TransportBinVersion, ShardID: 1, ReplicaID: 2, From: 1, Index: 10, Term: 3,
		ChunkId: id, ChunkCount: count, FileChunkId: id, FileChunkCount: count, ChunkSize: uint64(size), Data: make([]byte, size),
		Filepath: "/x/snapshot-1/snapshot-1.gbsnap", FileSize: uint64(size), Membership: pb.Membership{Addresses: map[uint64]string{1: ReplicaName(1)}},
	}
}

func TestSnapshotChunksArriveAndAreCapped(t *testing.T) {
	p := newRaftPair(t, func(o *Options) { o.MaxSnapshotBytes = 5 << 20 })
	c, err := p.a.GetSnapshotConnection(within(t, 5*time.Second), ReplicaName(2))
	must(t, err)
	must(t, c.SendChunk(testChunk(0, 2, 2<<20)))
	must(t, c.SendChunk(testChunk(1, 2, 1000)))
	c.Close()
	if a, b := <-p.chunks, <-p.chunks; len(a.Data) != 2<<20 || len(b.Data) != 1000 || !b.IsLastChunk() {
		t.Fatal("chunks are not what was sent")
	}
	c, err = p.a.GetSnapshotConnection(within(t, 5*time.Second), ReplicaName(2))
	must(t, err)
	defer c.Close()
	for i := range uint64(20) {
		if err = c.SendChunk(testChunk(i, 20, 2<<20)); err != nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err == nil || len(p.chunks) > 2 {
		t.Fatalf("%v after %d chunks: a snapshot has no bound", err, len(p.chunks))
	}
	if err := c.SendChunk(testChunk(0, 1, 3<<20)); !errors.Is(err, ErrFrameTooLarge) {
		t.Fatal(err)
	}
}

func TestImpossibleRaftMessagesAreRefused(t *testing.T) {
	r := rules{shard: 1, self: 2, deployment: 5}
	replicate := func(change func(*pb.MessageBatch, *pb.Message)) []byte {
		b := heartbeat(7)
		m := &b.Requests[0]
		m.Type, m.LogIndex, m.LogTerm = pb.Replicate, 4, 6
		m.Entries = []pb.Entry{{Index: 5, Term: 6, Cmd: []byte("x")}, {Index: 6, Term: 7}}
		if change != nil {
			change(&b, m)
		}
		raw, err := b.Marshal()
		must(t, err)
		return raw
	}
	good, err := r.batch(replicate(nil), 1)
	must(t, err)
	if len(good.Requests[0].Entries) != 2 || string(good.Requests[0].Entries[0].Cmd) != "x" {
		t.Fatalf("%+v", good)
	}
	for name, change := range map[string]func(*pb.MessageBatch, *pb.Message){
		"no receiver":           func(_ *pb.MessageBatch, m *pb.Message) { m.To = 0 },
		"another receiver":      func(_ *pb.MessageBatch, m *pb.Message) { m.To = 3 },
		"another sender":        func(_ *pb.MessageBatch, m *pb.Message) { m.From = 3 },
		"another shard":         func(_ *pb.MessageBatch, m *pb.Message) { m.ShardID = 3 },
		"another deployment":    func(b *pb.MessageBatch, _ *pb.Message) { b.DeploymentId++ },
		"another version":       func(b *pb.MessageBatch, _ *pb.Message) { b.BinVer++ },
		"a known replica moved": func(b *pb.MessageBatch, _ *pb.Message) { b.SourceAddress = ReplicaName(3) },
		"a local type":          func(_ *pb.MessageBatch, m *pb.Message) { m.Type = pb.Election },
		"a tick":                func(_ *pb.MessageBatch, m *pb.Message) { m.Type = pb.LocalTick },
		"a snapshot":            func(_ *pb.MessageBatch, m *pb.Message) { m.Type = pb.InstallSnapshot },
		"a snapshot inside":     func(_ *pb.MessageBatch, m *pb.Message) { m.Snapshot.Index = 9 },
		"an unknown type":       func(_ *pb.MessageBatch, m *pb.Message) { m.Type = 77 },
		"no term":               func(_ *pb.MessageBatch, m *pb.Message) { m.Term = 0 },
		"a hole":                func(_ *pb.MessageBatch, m *pb.Message) { m.Entries[1].Index++ },
		"a term that goes back": func(_ *pb.MessageBatch, m *pb.Message) { m.Entries[1].Term = 1 },
		"a term of the future":  func(_ *pb.MessageBatch, m *pb.Message) { m.Entries[1].Term = 9 },
		"an unknown entry":      func(_ *pb.MessageBatch, m *pb.Message) { m.Entries[1].Type = 77 },
		"a bad membership": func(_ *pb.MessageBatch, m *pb.Message) {
			m.Entries[1].Type = pb.ConfigChangeEntry
			m.Entries[1].Cmd = []byte{1}
		},
		"entries in a heartbeat": func(_ *pb.MessageBatch, m *pb.Message) { m.Type = pb.Heartbeat },
	} {
		if _, err := r.batch(replicate(change), 1); !errors.Is(err, ErrImpossible) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, raw := range map[string][]byte{
		"nothing but empty messages": bytes.Repeat([]byte{0x0a, 0}, 1000),
		"cut":                        replicate(nil)[:20],
		"a message of empty entries": func() []byte {
			inner := append(func() []byte { m := pb.Message{}; b, _ := m.Marshal(); return b }(), bytes.Repeat([]byte{0x5a, 0}, 100)...)
			return append(binary.AppendUvarint([]byte{0x0a}, uint64(len(inner))), inner...)
		}(),
	} {
		if _, err := r.batch(raw, 1); !errors.Is(err, ErrImpossible) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestImpossibleChunksAreRefused(t *testing.T) {
	r := rules{shard: 1, self: 2, deployment: 5}
	encode := func(change func(*pb.Chunk)) []byte {
		c := testChunk(0, 1, 100)
		if change != nil {
			change(&c)
		}
		b, err := c.Marshal()
		must(t, err)
		return b
	}
	_, err := r.chunk(encode(nil), 1)
	must(t, err)
	for name, change := range map[string]func(*pb.Chunk){
		"another sender":     func(c *pb.Chunk) { c.From = 9 },
		"another receiver":   func(c *pb.Chunk) { c.ReplicaID = 9 },
		"a path that climbs": func(c *pb.Chunk) { c.Filepath = "/x/.." },
		"no file name":       func(c *pb.Chunk) { c.Filepath = "/x/" },
		"a lying size":       func(c *pb.Chunk) { c.ChunkSize = 1 << 40 },
		"beyond the count":   func(c *pb.Chunk) { c.ChunkId = 5 },
		"other files":        func(c *pb.Chunk) { c.HasFileInfo = true },
		"no members":         func(c *pb.Chunk) { c.Membership = pb.Membership{} },
		"a bad member":       func(c *pb.Chunk) { c.Membership.Addresses[3] = "localhost:1" },
		"index 0":            func(c *pb.Chunk) { c.Index = 0 },
	} {
		if _, err := r.chunk(encode(change), 1); !errors.Is(err, ErrImpossible) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPortWithoutHostIsLoopback(t *testing.T) {
	l, err := Listen(":0")
	must(t, err)
	defer func() { _ = l.Close() }()
	if !l.Addr().(*net.TCPAddr).IP.IsLoopback() {
		t.Fatalf("%s is open to others", l.Addr())
	}
	if _, err := Listen("9192"); err == nil {
		t.Fatal("no port")
	}
}

// authority writes the files of a CA's node.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{dir: t.TempDir()}
	var err error
	a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	must(t, err)
	a.cert, err = x509.ParseCertificate(der)
	must(t, err)
	a.write(t, "ca.pem", "CERTIFICATE", der)
	return a
}

func (a *authority) write(t *testing.T, name, kind string, der []byte) string {
	path := filepath.Join(a.dir, name)
	must(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	return path
}

func (a *authority) issue(t *testing.T, name string) TLSFiles {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}, a.cert, &key.PublicKey, a.key)
	must(t, err)
	keyDER, err := x509.MarshalECPrivateKey(key)
	must(t, err)
	return TLSFiles{
		CertFile: a.write(t, name+".pem", "CERTIFICATE", der), KeyFile: a.write(t, name+".key", "EC PRIVATE KEY", keyDER),
		CAFile: filepath.Join(a.dir, "ca.pem"),
	}
}

func TestMutualTLS(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	load := func(f TLSFiles) *TLS {
		c, err := LoadTLS(f)
		must(t, err)
		return c
	}
	with := func(c *TLS) func(*Options) { return func(o *Options) { o.TLS = c } }
	b := open(t, identity(2), with(load(ours.issue(t, "b"))))
	b.Serve(1, func(_ context.Context, _ Identity, body []byte) ([]byte, error) { return body, nil })
	call := func(node int32, c *TLS) error {
		a := open(t, identity(node), with(c))
		big := make([]byte, 1<<20)
		got, err := a.Call(within(t, 5*time.Second), to(b, 2), 1, big)
		if err == nil && len(got) != len(big) {
			t.Error("answer is cut")
		}
		return err
	}
	must(t, call(1, load(ours.issue(t, "a"))))
	if err := call(3, load(theirs.issue(t, "x"))); err == nil {
		t.Error("a certificate of another authority is accepted")
	} else {
		t.Log(err)
	}
	if err := call(4, nil); err == nil || !strings.Contains(err.Error(), "TLS") {
		t.Errorf("a plain peer is told: %v", err)
	}
	named := ours.issue(t, "n")
	named.VerifyNames = true
	if err := call(5, load(named)); err == nil {
		t.Error("127.0.0.1 is not in the certificate of b")
	}
	plain := open(t, identity(6), nil)
	a := open(t, identity(7), with(load(ours.issue(t, "c"))))
	if _, err := a.Call(within(t, 5*time.Second), to(plain, 6), 1, nil); err == nil {
		t.Error("a TLS peer is served by a plain port")
	} else {
		t.Log(err)
	}
	c, err := net.Dial("tcp", b.Addr().String()) // the packet of the stock transport, at a port with TLS
	must(t, err)
	_, _ = c.Write(badPacket())
	_ = c.Close()
	must(t, call(8, load(ours.issue(t, "d"))))
}

func TestTLSFilesAreExplained(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	good := a.issue(t, "a")
	for name, change := range map[string]func(*TLSFiles){
		"no key":        func(f *TLSFiles) { f.KeyFile = "" },
		"no such file":  func(f *TLSFiles) { f.CertFile = "/nowhere" },
		"another's key": func(f *TLSFiles) { f.KeyFile = a.issue(t, "b").KeyFile },
		"an empty CA":   func(f *TLSFiles) { f.CAFile = f.KeyFile },
		"another's CA":  func(f *TLSFiles) { f.CAFile = filepath.Join(other.dir, "ca.pem") },
	} {
		f := good
		change(&f)
		if _, err := LoadTLS(f); !errors.Is(err, ErrTLSFiles) {
			t.Errorf("%s: %v", name, err)
		} else {
			t.Log(name, ":", err)
		}
	}
}
