package simdisk

// Stats counts what happened, so that a test can prove that it met what it claims to test.
type Stats struct {
	Ops          [kindCount]int // begun, by Kind (reads are in Reads)
	Reads        int
	ReadBytes    int64
	WriteBytes   int64
	Faults       int // operations that the fault hook hurt
	Crashes      int
	Kills        int
	BlocksKept   int // unsynced blocks at a power cut that survived whole
	BlocksLost   int // that fell back to their durable content
	BlocksTorn   int // of which sectors of both are left
	SizesLost    int // files cut back to their flushed size
	NamesKept    int // unsynced folder changes that survived
	NamesLost    int // and that did not
	InFlightLost int // queue operations in flight at a cut or kill
}

// Stats returns the counters so far.
func (d *Disk) Stats() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stats
}
