package index

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrCorrupt is wrapped by every error of the Decode functions.
var ErrCorrupt = errors.New("index: damaged section")

// The first byte of a section says what it is and in which version. These are part
// of the checkpoint format.
const (
	sectionOffsets = 0x11
	sectionTimes   = 0x21
	sectionAborted = 0x31
)

func appendSectionHead(b []byte, section byte, count int) []byte {
	return appendUvarint(append(b, section), uint64(count))
}

func appendVarint(b []byte, v int64) []byte   { return binary.AppendVarint(b, v) }
func appendUvarint(b []byte, v uint64) []byte { return binary.AppendUvarint(b, v) }

// decoder takes values off b until something is wrong; then err is set and all
// further values are 0.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
	}
	d.b = nil
}

// sectionHead returns the number of entries, each of which takes at least
// entrySizeMin bytes: a count that the section cannot hold is refused before memory is
// made for it.
func (d *decoder) sectionHead(section byte, entrySizeMin int) int {
	if len(d.b) == 0 || d.b[0] != section {
		d.fail("not a section of type %#x", section)
		return 0
	}
	d.b = d.b[1:]
	n := d.uvarint()
	if n > uint64(len(d.b)/entrySizeMin) {
		d.fail("%d entries in %d bytes", n, len(d.b))
		return 0
	}
	return int(n)
}

func (d *decoder) varint() int64 {
	if d.err != nil {
		return 0
	}
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail("cut short")
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) uvarint() uint64 {
	if d.err != nil {
		return 0
	}
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail("cut short")
		return 0
	}
	d.b = d.b[n:]
	return v
}

// end is the first error, bytes left over included.
func (d *decoder) end() error {
	if d.err == nil && len(d.b) > 0 {
		d.fail("%d bytes left over", len(d.b))
	}
	return d.err
}
