package raft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"millrace/engine/disk"
)

// peerBook is what this node has learnt of others before, or beside, the replicated state: the data directory of each
// raft replica that ever shook hands with it, and the cluster's id. It is durable before the handshake is answered.
//
//	magic "MRPEERS1", cluster id, count, {replica, directory, address}..., CRC-32C
type peerBook struct {
	fs   disk.FS
	path string

	mu      sync.Mutex
	cluster string
	peers   map[uint64]peerEntry
}

type peerEntry struct {
	directory UUID
	address   string
}

const (
	peerBookName  = "peers"
	peerBookMagic = "MRPEERS1"
	maxBookBytes  = 1 << 20
)

var errPeerBook = errors.New("raft: the file of known peers is damaged")

func openPeerBook(fsys disk.FS, dir string) (*peerBook, error) {
	b := &peerBook{fs: fsys, path: filepath.Join(dir, peerBookName), peers: map[uint64]peerEntry{}}
	f, err := fsys.OpenFile(b.path, os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return b, nil
	}
	if err != nil {
		return nil, fmt.Errorf("raft: %w", err)
	}
	defer func() { _ = f.Close() }()
	size, err := f.Size()
	if err != nil || size > maxBookBytes {
		return nil, fmt.Errorf("%w: %s: %d bytes, %w", errPeerBook, b.path, size, err)
	}
	raw := make([]byte, size)
	if n, err := f.ReadAt(raw, 0); n < len(raw) {
		return nil, fmt.Errorf("raft: %w", err)
	}
	if err := b.decode(raw); err != nil {
		return nil, fmt.Errorf("%w: %s", err, b.path)
	}
	return b, nil
}

func (b *peerBook) decode(raw []byte) error {
	if len(raw) < len(peerBookMagic)+4 || string(raw[:len(peerBookMagic)]) != peerBookMagic {
		return errPeerBook
	}
	body := raw[:len(raw)-4]
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(raw[len(body):]) {
		return errPeerBook
	}
	d := decoder{b: body[len(peerBookMagic):]}
	b.cluster = d.string()
	for range d.count(18) {
		id := d.uint()
		b.peers[id] = peerEntry{directory: d.uuid(), address: d.string()}
	}
	if d.finish() != nil {
		return errPeerBook
	}
	return nil
}

// save writes the book. The caller holds mu.
func (b *peerBook) save() error {
	e := encoder{b: []byte(peerBookMagic)}
	e.string(b.cluster)
	e.uint(uint64(len(b.peers)))
	for _, id := range slices.Sorted(maps.Keys(b.peers)) {
		e.uint(id)
		e.uuid(b.peers[id].directory)
		e.string(b.peers[id].address)
	}
	raw := binary.LittleEndian.AppendUint32(e.b, crc32.Checksum(e.b, castagnoli))
	if err := disk.WriteFileAtomic(b.fs, b.path, raw); err != nil {
		return fmt.Errorf("raft: note a peer: %w", err)
	}
	return nil
}

// check reports whether a replica has the data directory that it always had, and notes the first one.
func (b *peerBook) check(replica uint64, dir UUID) (known UUID, ok bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	old, had := b.peers[replica]
	if had && !old.directory.IsZero() {
		return old.directory, old.directory == dir, nil
	}
	b.peers[replica] = peerEntry{directory: dir, address: old.address}
	if err := b.save(); err != nil {
		b.peers[replica] = old
		if !had {
			delete(b.peers, replica)
		}
		return UUID{}, false, err
	}
	return dir, true, nil
}

func (b *peerBook) clusterID() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cluster
}

func (b *peerBook) setCluster(id string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if id == "" || b.cluster == id {
		return nil
	}
	if b.cluster != "" {
		return fmt.Errorf("raft: this directory is of cluster %s, not %s", b.cluster, id)
	}
	b.cluster = id
	if err := b.save(); err != nil {
		b.cluster = ""
		return err
	}
	return nil
}

func (b *peerBook) addr(replica uint64) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.peers[replica].address
}

// noteAddr keeps the address of a member that a join was told, for the time before the state is here.
func (b *peerBook) noteAddr(replica uint64, dir UUID, addr string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	old, had := b.peers[replica]
	if had && old.address == addr {
		return nil
	}
	if had {
		dir = old.directory
	}
	b.peers[replica] = peerEntry{directory: dir, address: addr}
	return b.save()
}
