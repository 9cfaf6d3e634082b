package engine

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/klauspost/crc32"

	"millrace/engine/disk"
)

const (
	metaName    = "meta"
	lockName    = "LOCK"
	logsName    = "logs"
	metaMagic   = "millrace data directory"
	metaVersion = 1
	metaMax     = 64 << 10
)

// Meta is what identifies a data directory. It is a small text file, so that a person can
// read it, with a checksum, so that nobody edits it by mistake.
type Meta struct {
	Format      int    `json:"format"`
	Features    uint64 `json:"features"`
	ClusterID   string `json:"cluster_id"`
	NodeID      int32  `json:"node_id"`
	DirectoryID ID     `json:"directory_id"`
	BootID      string `json:"boot_id"`
	// Incarnation counts openings. It is part of every new segment's generation, so that a file left by a
	// crash never shares its name with a later one.
	Incarnation uint64 `json:"incarnation"`
}

// ID is a random 128-bit id.
type ID [16]byte

// MarshalText writes the id in hexadecimal.
func (id ID) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(id[:])), nil }

// UnmarshalText is the inverse of MarshalText.
func (id *ID) UnmarshalText(b []byte) error {
	if hex.DecodedLen(len(b)) != len(id) {
		return fmt.Errorf("an id of %d characters", len(b))
	}
	_, err := hex.Decode(id[:], b)
	return err
}

func (m *Meta) encode() []byte {
	body, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("BUG: meta: %v", err))
	}
	b := append([]byte(metaMagic+"\n"), body...)
	return fmt.Appendf(b, "\ncrc32c %08x\n", crc32.Checksum(b, castagnoli))
}

// decodeMeta reads the bytes of a meta file.
func decodeMeta(b []byte) (Meta, error) {
	var m Meta
	const sumLen = len("\ncrc32c 00000000\n")
	if len(b) < len(metaMagic)+1+sumLen || !bytes.HasPrefix(b, []byte(metaMagic+"\n")) {
		return m, errors.New("not a millrace meta file")
	}
	body, sum := b[:len(b)-sumLen], b[len(b)-sumLen:]
	if string(sum) != fmt.Sprintf("\ncrc32c %08x\n", crc32.Checksum(body, castagnoli)) {
		return m, errors.New("checksum mismatch")
	}
	if err := json.Unmarshal(body[len(metaMagic)+1:], &m); err != nil {
		return m, err
	}
	if m.Format != metaVersion {
		return m, fmt.Errorf("format %d, this version knows %d", m.Format, metaVersion)
	}
	if unknown := m.Features &^ knownFeatures; unknown != 0 {
		return m, fmt.Errorf("unknown features %#x", unknown)
	}
	return m, nil
}

// openMeta reads the directory's meta file or makes a new one, and refuses what does not match.
// sameBoot says that the kernel has run since the last opening.
func openMeta(o *Options) (m Meta, sameBoot bool, err error) {
	path := o.path(metaName)
	boot, err := o.FS.BootID()
	if err != nil {
		o.Warn("boot id unknown (%v): every start counts as after a power cut", err)
		boot = ""
	}
	data, err := disk.ReadFile(o.FS, path, metaMax)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := refuseForeign(o); err != nil {
			return m, false, err
		}
		m = Meta{Format: metaVersion, Features: knownFeatures, ClusterID: o.ClusterID, NodeID: o.NodeID}
		o.salt(m.DirectoryID[:])
	case err != nil:
		return m, false, fmt.Errorf("engine: %w", err)
	default:
		m, err = decodeMeta(data)
		if err != nil {
			return m, false, fmt.Errorf("engine: %s: %w", path, err)
		}
		sameBoot = boot != "" && m.BootID == boot
	}
	switch {
	case m.NodeID != o.NodeID:
		return m, false, fmt.Errorf("engine: %s belongs to node %d, this is node %d", o.Dir, m.NodeID, o.NodeID)
	case o.ClusterID != "" && m.ClusterID != "" && m.ClusterID != o.ClusterID:
		return m, false, fmt.Errorf("engine: %s belongs to cluster %s, this is cluster %s", o.Dir, m.ClusterID, o.ClusterID)
	}
	if m.ClusterID == "" {
		m.ClusterID = o.ClusterID
	}
	m.BootID = boot
	m.Incarnation++
	return m, sameBoot, disk.WriteFileAtomic(o.FS, path, m.encode())
}

// refuseForeign keeps us from making a data directory out of one that has lost its meta file.
func refuseForeign(o *Options) error {
	names, err := o.FS.ReadDir(o.Dir)
	if err != nil {
		return fmt.Errorf("engine: %w", err)
	}
	for _, name := range names {
		if name == logsName || name == shardDirName(0) {
			if sub, err := o.FS.ReadDir(o.path(name)); err != nil || len(sub) > 0 {
				return fmt.Errorf("engine: %s has data (%s) but no meta file", o.Dir, name)
			}
		}
	}
	return nil
}
