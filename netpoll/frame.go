package netpoll

import (
	"encoding/binary"
	"fmt"
)

// sizeBytes is the length of the size in front of every frame.
const sizeBytes = 4

// Frame is one request as it came: the bytes after the size. It belongs to the
// handler until Release, also after its turn and after its connection is closed.
type Frame struct {
	Data  []byte
	chunk *chunk
	conn  *Conn
}

// Release gives the memory back; Data must not be touched afterwards. It is safe
// on any thread, once for every frame. The zero Frame may be released freely.
func (f Frame) Release() {
	if f.chunk == nil {
		return
	}
	f.conn.unhold(len(f.Data) + sizeBytes)
	f.chunk.Release()
}

// FrameSizeError is the reason for closing a connection whose peer announced a
// frame that is negative or too large: garbage, another protocol, or an attack.
type FrameSizeError struct {
	Size int32 // as announced
	Max  int   // what was allowed
}

func (e *FrameSizeError) Error() string {
	return fmt.Sprintf("netpoll: frame of %d bytes announced, %d allowed", e.Size, e.Max)
}

// frameEnd finds the end of the frame that begins b, its size included. known is false while
// fewer bytes than the size are there. It fails for sizes outside 0..limit.
func frameEnd(b []byte, limit int) (end int, known bool, err error) {
	if len(b) < sizeBytes {
		return 0, false, nil
	}
	size := int32(binary.BigEndian.Uint32(b))
	if size < 0 || int(size) > limit {
		return 0, true, &FrameSizeError{Size: size, Max: limit}
	}
	return sizeBytes + int(size), true, nil
}
