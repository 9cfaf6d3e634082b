package transport

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// ID is a random 16-byte id: of a data directory or of a process.
type ID [16]byte

// String is base64url, as ids are shown everywhere.
func (id ID) String() string { return base64.RawURLEncoding.EncodeToString(id[:]) }

// IsZero reports whether id is unset.
func (id ID) IsZero() bool { return id == ID{} }

// Identity is who stands at one end of a connection.
type Identity struct {
	ClusterID   string // empty until the cluster is formed, or known
	NodeID      int32
	ReplicaID   uint64 // raft replica; 0 while a joining node has none
	DirectoryID ID     // of the data directory
	Incarnation ID     // of the process
	BrokerEpoch int64  // 0 before the registration
	// Members is the list of nodes that the first start was told, in a canonical text: two nodes of a cluster that
	// is not formed yet must have been told the same.
	Members string
	// Addr is where the node's cluster port is reached, as it advertises it.
	Addr string
}

// NoNode is the NodeID of a peer of which nothing is expected.
const NoNode int32 = -1

func (i Identity) String() string {
	return fmt.Sprintf("node %d (replica %d, directory %s)", i.NodeID, i.ReplicaID, i.DirectoryID)
}

const (
	maxHelloBytes = 16 << 10
	maxTextBytes  = 4 << 10
)

// ErrHello is wrapped by the decoder's errors.
var ErrHello = errors.New("transport: malformed handshake")

// coder writes and reads the few fields of a handshake: varints and length-prefixed texts.
type coder struct {
	b   []byte
	bad bool
}

func (c *coder) putUint(v uint64)   { c.b = binary.AppendUvarint(c.b, v) }
func (c *coder) putInt(v int64)     { c.b = binary.AppendVarint(c.b, v) }
func (c *coder) putBytes(v []byte)  { c.b = append(c.b, v...) }
func (c *coder) putString(v string) { c.putUint(uint64(len(v))); c.b = append(c.b, v...) }

func (c *coder) fail() { c.b, c.bad = nil, true }

func (c *coder) uint() uint64 {
	v, n := binary.Uvarint(c.b)
	if n <= 0 {
		c.fail()
		return 0
	}
	c.b = c.b[n:]
	return v
}

func (c *coder) int() int64 {
	v, n := binary.Varint(c.b)
	if n <= 0 {
		c.fail()
		return 0
	}
	c.b = c.b[n:]
	return v
}

func (c *coder) int32() int32 {
	v := c.int()
	if v < math.MinInt32 || v > math.MaxInt32 {
		c.fail()
		return 0
	}
	return int32(v)
}

func (c *coder) uint16() uint16 {
	v := c.uint()
	if v > math.MaxUint16 {
		c.fail()
		return 0
	}
	return uint16(v)
}

func (c *coder) bytes(dst []byte) {
	if len(c.b) < len(dst) {
		c.fail()
		return
	}
	copy(dst, c.b)
	c.b = c.b[len(dst):]
}

func (c *coder) string() string {
	n := c.uint()
	if n > maxTextBytes || n > uint64(len(c.b)) {
		c.fail()
		return ""
	}
	s := string(c.b[:n])
	c.b = c.b[n:]
	return s
}

func (c *coder) putIdentity(i Identity) {
	c.putString(i.ClusterID)
	c.putInt(int64(i.NodeID))
	c.putUint(i.ReplicaID)
	c.putBytes(i.DirectoryID[:])
	c.putBytes(i.Incarnation[:])
	c.putInt(i.BrokerEpoch)
	c.putString(i.Members)
	c.putString(i.Addr)
}

func (c *coder) identity() (i Identity) {
	i.ClusterID = c.string()
	i.NodeID = c.int32()
	i.ReplicaID = c.uint()
	c.bytes(i.DirectoryID[:])
	c.bytes(i.Incarnation[:])
	i.BrokerEpoch = c.int()
	i.Members = c.string()
	i.Addr = c.string()
	return i
}

// hello opens a connection. Fields may be added at its end with a higher wire version.
type hello struct {
	wireMin, wireMax uint16
	kind             Kind
	self             Identity
	wantNode         int32  // NoNode: whoever is there
	wantReplica      uint64 // 0: any
	nonce            [32]byte
	hasSecret        bool
}

// welcome answers a hello. With a code other than OK the connection ends.
type welcome struct {
	code   RefusalCode
	detail string
	wire   uint16
	self   Identity
	nonce  [32]byte
	mac    [32]byte
}

func (h *hello) encode() []byte {
	var c coder
	c.putUint(uint64(h.wireMin))
	c.putUint(uint64(h.wireMax))
	c.putUint(uint64(h.kind))
	c.putIdentity(h.self)
	c.putInt(int64(h.wantNode))
	c.putUint(h.wantReplica)
	c.putBytes(h.nonce[:])
	if h.hasSecret {
		c.putUint(1)
	} else {
		c.putUint(0)
	}
	return c.b
}

func decodeHello(b []byte) (*hello, error) {
	c := coder{b: b}
	h := &hello{wireMin: c.uint16(), wireMax: c.uint16(), kind: Kind(c.uint16()), self: c.identity()}
	h.wantNode = c.int32()
	h.wantReplica = c.uint()
	c.bytes(h.nonce[:])
	h.hasSecret = c.uint() == 1
	// What a later version appends is not for us to judge.
	if c.bad || len(c.b) != 0 && h.wireMax <= WireMax {
		return nil, ErrHello
	}
	return h, nil
}

func (w *welcome) encode() []byte {
	var c coder
	c.putUint(uint64(w.code))
	c.putString(w.detail[:min(len(w.detail), maxTextBytes)])
	c.putUint(uint64(w.wire))
	c.putIdentity(w.self)
	c.putBytes(w.nonce[:])
	c.putBytes(w.mac[:])
	return c.b
}

func decodeWelcome(b []byte) (*welcome, error) {
	c := coder{b: b}
	w := &welcome{code: RefusalCode(c.uint16()), detail: c.string(), wire: c.uint16(), self: c.identity()}
	c.bytes(w.nonce[:])
	c.bytes(w.mac[:])
	if c.bad || len(c.b) != 0 {
		return nil, ErrHello
	}
	return w, nil
}
