package index

// Entry returns entry i, oldest first.
func (x *Offsets) Entry(i int) (offset, position int64) {
	e := x.entries[i]
	return x.base + int64(e.offset), int64(e.position)
}

// Entry returns entry i, oldest first.
func (x *Times) Entry(i int) (timestamp, offset int64) {
	return x.times[i], x.base + int64(x.offsets[i])
}

// Entries returns the transactions, in the order of their markers. The caller must not change them.
func (x *Aborted) Entries() []AbortedTxn { return x.txns }
