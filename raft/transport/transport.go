package transport

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"
)

// Kind says what a connection is for. The numbers are on the wire.
type Kind uint16

// Kinds of this package; others register theirs from KindFirstFree up.
const (
	KindRaft      Kind = 1
	KindSnapshot  Kind = 2
	KindCall      Kind = 3
	KindFirstFree Kind = 16
)

// Wire versions that this version speaks.
const (
	WireMin uint16 = 1
	WireMax uint16 = 1
)

// Handler owns a connection until it returns; then it is closed.
type Handler func(*Conn)

// Target is whom to dial. The handshake insists on NodeID and ReplicaID unless they are NoNode and 0.
type Target struct {
	Addr      string
	NodeID    int32
	ReplicaID uint64
}

// Options of New. Self is required; a Transport without Listener only dials.
type Options struct {
	Listener net.Listener
	// Dial opens a connection; nil is TCP.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// Self is asked for every handshake: cluster id and broker epoch become known later.
	Self func() Identity
	// Admit judges a peer whose handshake is otherwise good, on both ends. nil admits all of our cluster.
	Admit func(peer Identity, kind Kind) *Refusal
	// Resolve finds a raft replica; false drops what is sent to it.
	Resolve func(replicaID uint64) (Target, bool)
	// Refused is told that a peer refused this node: some refusals are final (RefusedDirectory, RefusedRemoved).
	Refused func(to Target, r *Refusal)
	TLS     *TLS
	// Secret, if set, must be known to both ends.
	Secret []byte
	Logger *slog.Logger

	HandshakeTimeout time.Duration // 5 s
	WriteTimeout     time.Duration // 10 s, of one frame
	PingInterval     time.Duration // 500 ms
	SilenceTimeout   time.Duration // 2 s
	MaxConns         int           // accepted ones, 1024
	MaxHandshakes    int           // of those that have not finished theirs, 64
	QueueBytes       int           // of raft messages to one peer, 96 MiB
	QueueFrames      int           // 4096
	MaxSnapshotBytes int64         // 1 GiB and a little
}

// Transport is a node's end of the cluster port.
type Transport struct {
	o       Options
	mu      sync.Mutex
	kinds   map[Kind]Handler
	methods map[uint16]Method
	conns   map[*Conn]bool
	shaking chan struct{}
	callers map[Target]*caller
	raft    *raftTransport
	lost    func(Identity) // OnLost
	closed  bool
	closing context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	quiet   quiet
}

// New makes a transport that accepts nothing until Start.
func New(o Options) *Transport {
	if o.Self == nil {
		panic("BUG: transport without identity")
	}
	if o.Dial == nil {
		d := net.Dialer{KeepAlive: 15 * time.Second}
		o.Dial = func(ctx context.Context, addr string) (net.Conn, error) { return d.DialContext(ctx, "tcp", addr) }
	}
	if o.Admit == nil {
		o.Admit = func(Identity, Kind) *Refusal { return nil }
	}
	if o.Resolve == nil {
		o.Resolve = func(uint64) (Target, bool) { return Target{}, false }
	}
	if o.Refused == nil {
		o.Refused = func(Target, *Refusal) {}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	for _, d := range []struct {
		at    *time.Duration
		value time.Duration
	}{
		{&o.HandshakeTimeout, 5 * time.Second},
		{&o.WriteTimeout, 10 * time.Second},
		{&o.PingInterval, 500 * time.Millisecond},
		{&o.SilenceTimeout, 2 * time.Second},
	} {
		if *d.at == 0 {
			*d.at = d.value
		}
	}
	for _, d := range []struct {
		at    *int
		value int
	}{{&o.MaxConns, 1024}, {&o.MaxHandshakes, 64}, {&o.QueueBytes, 96 << 20}, {&o.QueueFrames, 4096}} {
		if *d.at == 0 {
			*d.at = d.value
		}
	}
	if o.MaxSnapshotBytes == 0 {
		o.MaxSnapshotBytes = 1<<30 + 16<<20
	}
	t := &Transport{
		o: o, kinds: map[Kind]Handler{}, methods: map[uint16]Method{}, conns: map[*Conn]bool{},
		callers: map[Target]*caller{}, shaking: make(chan struct{}, o.MaxHandshakes),
	}
	t.closing, t.cancel = context.WithCancel(context.Background())
	t.kinds[KindCall] = t.serveCalls
	return t
}

// Register has connections of a kind handled by h, each on its own goroutine. It may be called at any time; nil
// ends the service for connections to come.
func (t *Transport) Register(kind Kind, h Handler) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if h == nil {
		delete(t.kinds, kind)
		return
	}
	t.kinds[kind] = h
}

func (t *Transport) handler(kind Kind) Handler {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.kinds[kind]
}

// OnLost has f told when a connection ends over which a peer made its calls: it may have died. f must not block.
func (t *Transport) OnLost(f func(peer Identity)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lost = f
}

func (t *Transport) tellLost(peer Identity) {
	t.mu.Lock()
	f, closed := t.lost, t.closed
	t.mu.Unlock()
	if f != nil && !closed {
		f(peer)
	}
}

// NobodyListens reports whether the machine at an address says that nobody listens there: the process that did has ended. Any
// other outcome, a time-out above all, proves nothing and is false.
func (t *Transport) NobodyListens(ctx context.Context, addr string) bool {
	c, err := t.o.Dial(ctx, addr)
	if err == nil {
		_ = c.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// Addr is where the cluster port listens; nil without a listener.
func (t *Transport) Addr() net.Addr {
	if t.o.Listener == nil {
		return nil
	}
	return t.o.Listener.Addr()
}

// Start accepts connections.
func (t *Transport) Start() {
	if t.o.Listener != nil {
		t.wg.Go(t.accept)
	}
}

// Close ends every connection and waits for the handlers.
func (t *Transport) Close() error {
	t.mu.Lock()
	t.closed = true
	t.cancel()
	conns := make([]*Conn, 0, len(t.conns))
	for c := range t.conns {
		conns = append(conns, c)
	}
	t.mu.Unlock()
	var err error
	if t.o.Listener != nil {
		err = t.o.Listener.Close()
	}
	for _, c := range conns {
		_ = c.Close()
	}
	t.wg.Wait()
	return err
}

// add keeps track of a connection so that Close finds it; false means that it is too late or one too many.
func (t *Transport) add(c *Conn, accepted bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || accepted && len(t.conns) >= t.o.MaxConns {
		return false
	}
	t.conns[c] = true
	c.onClose = func() {
		t.mu.Lock()
		delete(t.conns, c)
		t.mu.Unlock()
	}
	return true
}

func (t *Transport) accept() {
	for wait := 5 * time.Millisecond; ; {
		c, err := t.o.Listener.Accept()
		if err != nil {
			if t.closing.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			t.o.Logger.Warn("cluster port cannot accept", "err", err) // out of file descriptors, most likely
			select {
			case <-after(wait):
			case <-t.closing.Done():
				return
			}
			wait = min(2*wait, time.Second)
			continue
		}
		wait = 5 * time.Millisecond
		select {
		case t.shaking <- struct{}{}:
			t.wg.Go(func() { t.serve(c) })
		default:
			_ = c.Close() // too many strangers at the door
		}
	}
}

// serve runs the handshake of an accepted connection and then its handler.
func (t *Transport) serve(raw net.Conn) {
	c := newConn(raw, t.o.WriteTimeout)
	if !t.add(c, true) {
		_ = raw.Close()
		<-t.shaking
		return
	}
	defer func() { _ = c.Close() }()
	h, err := func() (Handler, error) {
		defer func() { <-t.shaking }()
		return t.welcome(c)
	}()
	if err != nil {
		if t.closing.Err() == nil && t.quiet.pass(err.Error()) {
			t.o.Logger.Warn("cluster port: handshake failed", "from", raw.RemoteAddr().String(), "err", err)
		}
		return
	}
	h(c)
}

// secure puts TLS below a connection, where it is asked for.
func (t *Transport) secure(ctx context.Context, c *Conn, server bool, name string) error {
	if t.o.TLS == nil {
		return nil
	}
	var secured *tls.Conn
	if server {
		secured = tls.Server(c.net, t.o.TLS.server())
	} else {
		secured = tls.Client(c.net, t.o.TLS.client(name))
	}
	if err := secured.HandshakeContext(ctx); err != nil {
		return explainTLS(err)
	}
	c.net = secured
	c.in.Reset(secured)
	return nil
}

func mac(secret []byte, label string, parts ...[]byte) (sum [32]byte) {
	m := hmac.New(sha256.New, secret)
	m.Write([]byte(label))
	for _, p := range parts {
		m.Write(p)
	}
	m.Sum(sum[:0])
	return sum
}

// welcome is the accepting end of the handshake.
func (t *Transport) welcome(c *Conn) (Handler, error) {
	ctx, cancel := context.WithTimeout(t.closing, t.o.HandshakeTimeout)
	defer cancel()
	if err := c.net.SetDeadline(now().Add(t.o.HandshakeTimeout)); err != nil {
		return nil, err
	}
	if err := t.secure(ctx, c, true, ""); err != nil {
		return nil, err
	}
	kind, helloBytes, err := readFrame(c.in, maxHelloBytes)
	if err != nil {
		return nil, err
	}
	if kind != frameHello {
		return nil, ErrHello
	}
	h, err := decodeHello(helloBytes)
	if err != nil {
		return nil, err
	}
	self := t.o.Self()
	w := &welcome{wire: min(WireMax, h.wireMax), self: self}
	_, _ = rand.Read(w.nonce[:]) // never fails since Go 1.24
	handler := t.handler(h.kind)
	refused := t.judge(h, self)
	if refused == nil && handler == nil {
		refused = Refuse(RefusedKind, "%d", h.kind)
	}
	if refused != nil {
		w.code, w.detail = refused.Code, refused.Detail
		_ = c.writeFrame(frameWelcome, w.encode())
		return nil, fmt.Errorf("%s: %w", h.self, refused)
	}
	bare := w.encode()
	w.mac = mac(t.o.Secret, "welcome", helloBytes, bare)
	if err := c.writeFrame(frameWelcome, w.encode()); err != nil {
		return nil, err
	}
	kind, proof, err := readFrame(c.in, maxHelloBytes)
	if err != nil {
		return nil, err
	}
	want := mac(t.o.Secret, "proof", helloBytes, bare)
	verdict := &welcome{wire: w.wire, self: self}
	switch {
	case kind != frameProof:
		return nil, ErrHello
	case !hmac.Equal(proof, want[:]):
		refused = Refuse(RefusedSecret, "")
	default:
		// Only now: admitting writes down who the peer is.
		refused = t.o.Admit(h.self, h.kind)
	}
	if refused != nil {
		verdict.code, verdict.detail = refused.Code, refused.Detail
	}
	if err := c.writeFrame(frameWelcome, verdict.encode()); err != nil {
		return nil, err
	}
	if refused != nil {
		return nil, fmt.Errorf("%s: %w", h.self, refused)
	}
	c.peer, c.kind = h.self, h.kind
	c.heard.Store(now().UnixNano())
	return handler, c.net.SetDeadline(time.Time{})
}

// judge holds the rules that every handshake has.
func (t *Transport) judge(h *hello, self Identity) *Refusal {
	switch {
	case h.wireMin > WireMax || h.wireMax < WireMin || h.wireMin > h.wireMax:
		return Refuse(RefusedVersion, "peer speaks %d to %d, this node %d to %d", h.wireMin, h.wireMax, WireMin, WireMax)
	case h.hasSecret != (len(t.o.Secret) > 0):
		return Refuse(RefusedSecret, "one side has a cluster secret, the other has none")
	case h.wantNode != NoNode && h.wantNode != self.NodeID:
		return Refuse(RefusedNode, "this is node %d, not %d", self.NodeID, h.wantNode)
	case h.wantReplica != 0 && h.wantReplica != self.ReplicaID:
		return Refuse(RefusedNode, "this is replica %d, not %d", self.ReplicaID, h.wantReplica)
	}
	return sameCluster(h.self, self)
}

func sameCluster(peer, self Identity) *Refusal {
	switch {
	case peer.ClusterID != "" && self.ClusterID != "" && peer.ClusterID != self.ClusterID:
		return Refuse(RefusedCluster, "peer is of %s, this node of %s", peer.ClusterID, self.ClusterID)
	case peer.ReplicaID != 0 && peer.ReplicaID == self.ReplicaID && peer.Incarnation != self.Incarnation:
		return Refuse(RefusedSelf, "two nodes claim replica %d (the same --node-id twice?)", self.ReplicaID)
	case peer.Members != "" && self.Members != "" && peer.Members != self.Members:
		return Refuse(RefusedMembers, "peer was told [%s], this node [%s]", peer.Members, self.Members)
	}
	return nil
}

// Dial opens a stream to a peer. The connection is the caller's to close.
func (t *Transport) Dial(ctx context.Context, to Target, kind Kind) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, t.o.HandshakeTimeout)
	defer cancel()
	stop := context.AfterFunc(t.closing, cancel)
	defer stop()
	raw, err := t.o.Dial(ctx, to.Addr)
	if err != nil {
		return nil, fmt.Errorf("transport: dial node %d at %s: %w", to.NodeID, to.Addr, err)
	}
	c := newConn(raw, t.o.WriteTimeout)
	if !t.add(c, false) {
		_ = raw.Close()
		return nil, ErrClosed
	}
	if err := t.greet(ctx, c, to, kind); err != nil {
		_ = c.Close()
		var refused *Refusal
		if errors.As(err, &refused) && refused.ByPeer {
			t.o.Refused(to, refused)
		}
		return nil, fmt.Errorf("transport: node %d at %s: %w", to.NodeID, to.Addr, err)
	}
	return c, nil
}

// greet is the dialing end of the handshake.
func (t *Transport) greet(ctx context.Context, c *Conn, to Target, kind Kind) error {
	deadline, _ := ctx.Deadline()
	if err := c.net.SetDeadline(deadline); err != nil {
		return err
	}
	host, _, _ := net.SplitHostPort(to.Addr)
	if err := t.secure(ctx, c, false, host); err != nil {
		return err
	}
	self := t.o.Self()
	h := &hello{
		wireMin: WireMin, wireMax: WireMax, kind: kind, self: self, wantNode: to.NodeID, wantReplica: to.ReplicaID,
		hasSecret: len(t.o.Secret) > 0,
	}
	_, _ = rand.Read(h.nonce[:]) // never fails since Go 1.24
	helloBytes := h.encode()
	if err := c.writeFrame(frameHello, helloBytes); err != nil {
		return err
	}
	w, err := readWelcome(c)
	if err != nil {
		return err
	}
	got := w.mac
	w.mac = [32]byte{}
	bare := w.encode()
	want := mac(t.o.Secret, "welcome", helloBytes, bare)
	switch {
	case !hmac.Equal(got[:], want[:]):
		return Refuse(RefusedSecret, "the peer does not know ours")
	case w.wire < WireMin || w.wire > WireMax:
		return Refuse(RefusedVersion, "peer chose %d", w.wire)
	case to.NodeID != NoNode && w.self.NodeID != to.NodeID, to.ReplicaID != 0 && w.self.ReplicaID != to.ReplicaID:
		return Refuse(RefusedNode, "%s answered", w.self)
	}
	if r := sameCluster(w.self, self); r != nil {
		return r
	}
	if r := t.o.Admit(w.self, kind); r != nil {
		return r
	}
	proof := mac(t.o.Secret, "proof", helloBytes, bare)
	if err := c.writeFrame(frameProof, proof[:]); err != nil {
		return err
	}
	if _, err := readWelcome(c); err != nil {
		return err
	}
	c.peer, c.kind = w.self, kind
	c.heard.Store(now().UnixNano())
	return c.net.SetDeadline(time.Time{})
}

func readWelcome(c *Conn) (*welcome, error) {
	kind, b, err := readFrame(c.in, maxHelloBytes)
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("the peer hung up during the handshake (does it want TLS?): %w", err)
	}
	if err != nil {
		return nil, err
	}
	if kind != frameWelcome {
		return nil, ErrHello
	}
	w, err := decodeWelcome(b)
	if err != nil {
		return nil, err
	}
	if w.code != RefusedNot {
		return nil, &Refusal{Code: w.code, Detail: w.detail, ByPeer: true}
	}
	return w, nil
}

// quiet lets each message through once a minute.
type quiet struct {
	mu   sync.Mutex
	seen map[string]time.Time
}

func (q *quiet) pass(text string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	t := now()
	if last, ok := q.seen[text]; ok && t.Sub(last) < time.Minute {
		return false
	}
	if q.seen == nil || len(q.seen) > 256 {
		q.seen = map[string]time.Time{}
	}
	q.seen[text] = t
	return true
}
