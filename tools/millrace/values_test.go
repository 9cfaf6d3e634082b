package main

import (
	"testing"
	"time"
)

func TestDurationsTakeBareNumbers(t *testing.T) {
	for text, want := range map[string]time.Duration{"30": 30 * time.Second, "30s": 30 * time.Second, "0.5": 500 * time.Millisecond, "1m30s": 90 * time.Second} {
		var s seconds
		if err := s.Set(text); err != nil || time.Duration(s) != want {
			t.Errorf("%s: %v, %v", text, time.Duration(s), err)
		}
	}
	var m milliseconds
	if err := m.Set("5"); err != nil || time.Duration(m) != 5*time.Millisecond {
		t.Errorf("5: %v, %v", time.Duration(m), err)
	}
	for _, text := range []string{"", "x", "-1", "NaN", "1e300"} {
		if new(seconds).Set(text) == nil || new(milliseconds).Set(text) == nil {
			t.Errorf("%q is taken for a duration", text)
		}
	}
}

func TestSizesTakeUnits(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "17": 17, "4KiB": 4096, "64m": 64 << 20, "1 GiB": 1 << 30, "2gb": 2 << 30} {
		var b byteSize
		if err := b.Set(text); err != nil || int64(b) != want {
			t.Errorf("%s: %d, %v", text, int64(b), err)
		}
		var again byteSize
		if err := again.Set(b.String()); err != nil || again != b {
			t.Errorf("%s prints as %s, which reads as %d", text, b.String(), again)
		}
	}
	for _, text := range []string{"", "x", "-1", "1TiBs", "9999999999GiB"} {
		if new(byteSize).Set(text) == nil {
			t.Errorf("%q is taken for a size", text)
		}
	}
}
