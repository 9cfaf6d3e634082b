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

// LastEpoch is the leader epoch of the newest batch, or the newest one that was begun since; -1 if there is none.
func (l *Log) LastEpoch() int32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.newestEpoch()
}
