// Package logdb is dragonboat's log store (raftio.ILogDB): the state in memory, one append-only journal
// on disk. It exists because a store that comes up with fewer entries than it acknowledged breaks
// quorums, and one that refuses a merely torn last record does not start after an ordinary crash.
//
//	journal:  | header, salt | mark | mark | ... | frame 1 | frame 2 | ... | frame n |
//
// Every frame carries sequence, length, the last durable sequence and a CRC-32C over header and payload,
// salted for each file. A frame is written and flushed before the next one begins, and after the
// flush a mark says so. Hence at open:
//
//   - a bad last frame beyond the marks was being written when the machine stopped: it is cut;
//   - a bad frame at or below a mark, or with a valid frame behind it, is damage: Open refuses.
//
// Open and compaction write a new file (new salt) and rename it into place. A merely advanced commit
// index is not worth a flush: it rides on the next frame.
//
// Failed writes and flushes are never retried: the store tells Options.OnFailed and holds its
// callers until Abort. A full disk is not a failure: space is reserved first, and waited for.
package logdb
