package engine

// EpochAt is the leader epoch in which the record at offset was written; -1 when
// the log does not know.
func (l *Log) EpochAt(offset int64) int32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e, ok := l.epochs.EpochAt(offset); ok {
		return e
	}
	return -1
}
