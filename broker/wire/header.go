package wire

// RequestHeader is Kafka's request header, versions 1 and 2. ClientID aliases
// the frame.
type RequestHeader struct {
	Key           int16
	Version       int16
	CorrelationID int32
	ClientID      []byte
}

// ReadHeaderStart reads the part that every request header has in common; the
// caller then knows whether the version is flexible and calls ReadHeaderTags.
func ReadHeaderStart(r *Reader) RequestHeader {
	h := RequestHeader{Key: r.Int16(), Version: r.Int16(), CorrelationID: r.Int32()}
	// The client id stays a plain string in header version 2 (KIP-482).
	h.ClientID, _ = r.String(false)
	return h
}

// AppendResponseHeader appends a response header: version 0, or version 1
// (with an empty set of tags) when tagged is set.
func AppendResponseHeader(b []byte, correlationID int32, tagged bool) []byte {
	b = AppendInt32(b, correlationID)
	return AppendNoTags(b, tagged)
}
