package batch

import "strconv"

// Codec is the compression of the records of a batch (attributes, bits 0-2).
type Codec int8

// Kafka's codec numbers.
const (
	None Codec = iota
	Gzip
	Snappy
	LZ4
	Zstd

	codecCount
)

// String gives Kafka's name of the codec, as in compression.type.
func (c Codec) String() string {
	switch c {
	case None:
		return "none"
	case Gzip:
		return "gzip"
	case Snappy:
		return "snappy"
	case LZ4:
		return "lz4"
	case Zstd:
		return "zstd"
	default:
		return "codec " + strconv.Itoa(int(c))
	}
}
