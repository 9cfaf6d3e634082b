package batch

import "errors"

// What can be wrong with a batch. Errors of this package wrap one of these.
var (
	ErrShort    = errors.New("batch: fewer bytes than the header or its length field ask for")
	ErrMagic    = errors.New("batch: magic is not 2")
	ErrLength   = errors.New("batch: length field does not fit")
	ErrCount    = errors.New("batch: record count and last offset delta do not fit")
	ErrCodec    = errors.New("batch: unknown compression codec")
	ErrCRC      = errors.New("batch: CRC-32C does not match")
	ErrRecord   = errors.New("batch: malformed record")
	ErrNoKey    = errors.New("batch: record without a key")
	ErrTrailing = errors.New("batch: bytes left over after the last record")
	ErrCompress = errors.New("batch: compressed data is damaged")
	ErrTooLarge = errors.New("batch: uncompressed records exceed the limit")
	ErrControl  = errors.New("batch: malformed control record")
)
