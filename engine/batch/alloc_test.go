//go:build !race

package batch

import (
	"errors"
	"io"
	"testing"
)

func TestHeaderPathsDoNotAllocate(t *testing.T) {
	b := someBatch(t, None, 20)
	for name, f := range map[string]func(){
		"ParseHeader":      func() { _, _ = ParseHeader(b) },
		"PeekSize":         func() { _, _ = PeekSize(b) },
		"Validate":         func() { _, _ = Validate(b) },
		"SetBaseOffset":    func() { SetBaseOffset(b, 5) },
		"SetLeaderEpoch":   func() { SetLeaderEpoch(b, 5) },
		"SetLogAppendTime": func() { SetLogAppendTime(b, 5) },
		"CheckProduced": func() {
			h, _ := ParseHeader(b)
			_ = h.CheckProduced()
		},
		"CheckRecords": func() { _, _ = CheckRecords(b, false, limit) },
	} {
		if n := testing.AllocsPerRun(200, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func TestReaderDoesNotAllocateOnceWarm(t *testing.T) {
	for _, codec := range []Codec{None, Gzip, Snappy, Zstd} { // the lz4 reader allocates a few small things for each frame
		b := someBatch(t, codec, 20)
		var r Reader
		if n := testing.AllocsPerRun(200, func() {
			if err := r.Reset(b, limit); err != nil {
				t.Fatal(err)
			}
			for {
				if _, err := r.Next(); errors.Is(err, io.EOF) {
					return
				}
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations a batch", codec, n)
		}
	}
}
