//go:build !race

package producer

import "testing"

func TestCheckAndApplyDoNotAllocate(t *testing.T) {
	s := New()
	s.Apply(data(0, 0, 0, 10))
	base, seq := int64(10), int32(10)
	if n := testing.AllocsPerRun(1000, func() {
		h := data(base, 0, seq, 10)
		if v, err := s.Check(h); err != nil || v.Duplicate {
			t.Fatal(v, err)
		}
		s.Apply(h)
		if v, err := s.Check(h); err != nil || !v.Duplicate {
			t.Fatal(v, err)
		}
		base, seq = base+10, seq+10
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}
