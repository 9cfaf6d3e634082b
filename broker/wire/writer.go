package wire

import "encoding/binary"

// The Append functions write one primitive each, in the form that the flexible
// flag of the message version asks for.

// AppendInt8 appends an INT8.
func AppendInt8(b []byte, v int8) []byte { return append(b, byte(v)) }

// AppendInt16 appends an INT16.
func AppendInt16(b []byte, v int16) []byte { return binary.BigEndian.AppendUint16(b, uint16(v)) }

// AppendInt32 appends an INT32.
func AppendInt32(b []byte, v int32) []byte { return binary.BigEndian.AppendUint32(b, uint32(v)) }

// AppendInt64 appends an INT64.
func AppendInt64(b []byte, v int64) []byte { return binary.BigEndian.AppendUint64(b, uint64(v)) }

// AppendUvarint appends an unsigned varint.
func AppendUvarint(b []byte, v uint32) []byte { return binary.AppendUvarint(b, uint64(v)) }

// AppendCount appends the length of an array; -1 is null.
func AppendCount(b []byte, flexible bool, n int) []byte {
	if flexible {
		return AppendUvarint(b, uint32(n+1))
	}
	return AppendInt32(b, int32(n))
}

// AppendString appends a string that is not null.
func AppendString(b []byte, flexible bool, s string) []byte {
	if flexible {
		b = AppendUvarint(b, uint32(len(s)+1))
	} else {
		b = AppendInt16(b, int16(len(s)))
	}
	return append(b, s...)
}

// AppendNullString appends a string where the empty one means null.
func AppendNullString(b []byte, flexible bool, s string) []byte {
	switch {
	case s != "":
		return AppendString(b, flexible, s)
	case flexible:
		return append(b, 0)
	default:
		return AppendInt16(b, -1)
	}
}

// AppendBytesLen appends the length that stands before n bytes of records.
func AppendBytesLen(b []byte, flexible bool, n int) []byte {
	return AppendCount(b, flexible, n)
}

// AppendNoTags ends a flexible structure without tagged fields.
func AppendNoTags(b []byte, flexible bool) []byte {
	if flexible {
		return append(b, 0)
	}
	return b
}
