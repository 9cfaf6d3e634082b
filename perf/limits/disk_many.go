package main

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"time"
)

// flushers is how many brokers a replicated record is flushed by.
const flushers = 3

// flushMany measures durable writes on written files, of flushers that each write one after the other to a file of
// their own, all at once: what a flush takes on a machine that holds every replica.
func (r *run) flushMany(how string, b []byte) error {
	files := make([]*os.File, flushers)
	for i := range files {
		f, err := r.open("written", writtenFile)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }() // what was written is thrown away
		files[i] = f
	}
	took := make([][]time.Duration, flushers)
	failed := make([]error, flushers)
	var all sync.WaitGroup
	began := time.Now()
	for i, f := range files {
		all.Go(func() {
			for at := int64(0); time.Since(began) < r.slice && len(took[i]) < 1<<20; at += int64(len(b)) {
				if at+int64(len(b)) > writtenFile {
					at = 0
				}
				start := time.Now()
				if failed[i] = durable(f, how, b, at); failed[i] != nil {
					return
				}
				took[i] = append(took[i], time.Since(start))
			}
		})
	}
	all.Wait()
	for _, err := range failed {
		if err != nil {
			return err
		}
	}
	together := slices.Concat(took...)
	slices.Sort(together)
	p50, p99 := together[len(together)/2], together[len(together)*99/100]
	r.add(fmt.Sprintf("flush_written_%s_%dk_x%d", how, len(b)>>10, flushers), float64(p50.Microseconds()), "us",
		fmt.Sprintf("%d at a time, each on a file of its own; median; p99 %.0f us", flushers, float64(p99.Microseconds())))
	return nil
}
