// Package batch knows the bytes of Kafka's record batch, format v2 (magic 2),
// and nothing else: header view, checksum, records, building, rewriting.
//
//	offset size                            covered by
//	 0     8   base offset                 nothing   (the broker assigns it)
//	 8     4   length of what follows      nothing
//	12     4   partition leader epoch      nothing   (the broker stamps it)
//	16     1   magic = 2                   nothing
//	17     4   CRC-32C of bytes 21..end
//	21     2   attributes                  CRC   bits 0-2 codec, 3 log append time,
//	                                             4 transactional, 5 control,
//	                                             6 base timestamp is a delete horizon
//	23     4   last offset delta           CRC
//	27     8   base timestamp              CRC
//	35     8   max timestamp               CRC
//	43     8   producer id                 CRC   -1: none
//	51     2   producer epoch              CRC
//	53     4   base sequence               CRC   -1: none
//	57     4   number of records           CRC
//	61     ..  records, compressed together if there is a codec
//
// # Contract
//
// Bytes that come in are never trusted: every function that reads them returns
// an error that wraps one of the sentinels of errors.go, never panics, and
// allocates no more than the caller allowed (maxUncompressed), whatever a length
// or a count inside the bytes claims. Records alias the batch, or the buffer of
// the Reader that produced them, and are valid until its next Reset or Close.
//
// ParseHeader, Validate and the Set functions do not allocate.
//
// # Threads
//
// All functions may be called from any goroutine. A Reader, a Builder and a
// batch that is being changed belong to one goroutine at a time.
package batch
