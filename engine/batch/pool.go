package batch

import "sync"

var readers = sync.Pool{New: func() any { return new(Reader) }}

func getReader() *Reader { return readers.Get().(*Reader) }

// putReader gives r back without the caller's memory.
func putReader(r *Reader) {
	r.Close()
	readers.Put(r)
}
