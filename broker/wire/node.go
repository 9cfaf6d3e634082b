package wire

import "encoding/binary"

// NodeEndpoint is where a leader that a hint names can be reached (KIP-951).
type NodeEndpoint struct {
	ID   int32
	Host string
	Port int32
	Rack string // empty: null
}

// appendNodes appends the tagged fields of a response whose only one is number 0, the list of nodes.
func appendNodes(b []byte, nodes []NodeEndpoint) []byte {
	size := uvarintLen(uint64(len(nodes) + 1))
	for i := range nodes {
		n := &nodes[i]
		size += 4 + uvarintLen(uint64(len(n.Host)+1)) + len(n.Host) + 4 + uvarintLen(uint64(len(n.Rack)+1)) + len(n.Rack) + 1
	}
	b = append(b, 1, 0)
	b = binary.AppendUvarint(b, uint64(size))
	b = AppendCount(b, true, len(nodes))
	for i := range nodes {
		n := &nodes[i]
		b = AppendInt32(b, n.ID)
		b = AppendString(b, true, n.Host)
		b = AppendInt32(b, n.Port)
		b = AppendNullString(b, true, n.Rack)
		b = AppendNoTags(b, true)
	}
	return b
}

func uvarintLen(v uint64) int {
	n := 1
	for ; v >= 0x80; v >>= 7 {
		n++
	}
	return n
}
