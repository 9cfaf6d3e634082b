package fault

import (
	"fmt"
	"testing"
)

func everything() []Fault {
	faults := append(append(append([]Fault{}, processes...), partitions...), disks...)
	return append(faults, throttled)
}

func TestPlanFollowsFromItsSeed(t *testing.T) {
	a, b, other := NewPlan(everything(), 3, 7), NewPlan(everything(), 3, 7), NewPlan(everything(), 3, 8)
	different := false
	for range 50 {
		x, y := a.Next(), b.Next()
		if fmt.Sprintf("%v %v", x.Pause, x) != fmt.Sprintf("%v %v", y.Pause, y) {
			t.Fatalf("%v, %v", x, y)
		}
		different = different || x.String() != other.Next().String()
	}
	if !different {
		t.Error("another seed makes the same plan")
	}
}

func TestPlanUsesEveryFaultAndEveryNode(t *testing.T) {
	p := NewPlan(everything(), 3, 1)
	used, nodes, pairs := map[string]int{}, map[int]int{}, 0
	for range 1000 {
		s := p.Next()
		if s.Pause < 0 || s.Pause > pauseMax {
			t.Errorf("a pause of %v", s.Pause)
		}
		if len(s.Parts) == 2 {
			pairs++
			if s.Parts[0].Node == s.Parts[1].Node || s.Parts[0].Fault.All || s.Parts[1].Fault.All {
				t.Errorf("%v", s)
			}
		}
		for _, part := range s.Parts {
			used[part.Fault.Name]++
			nodes[part.Node]++
			if (part.Node == 0) != part.Fault.All || part.Hold < part.Fault.Min || part.Hold > part.Fault.Max {
				t.Errorf("%+v", part)
			}
		}
	}
	for _, f := range everything() {
		if used[f.Name] == 0 {
			t.Errorf("%s is never used", f.Name)
		}
	}
	if len(nodes) != 4 || pairs < 100 {
		t.Errorf("nodes %v, %d pairs", nodes, pairs)
	}
}

func TestFaultsAreFoundByName(t *testing.T) {
	names := map[string]bool{}
	for _, f := range everything() {
		if names[f.Name] {
			t.Errorf("two faults are called %q", f.Name)
		}
		names[f.Name] = true
		if found, ok := Find(everything(), f.Name); !ok || found.Name != f.Name {
			t.Errorf("%q is not found", f.Name)
		}
	}
	if _, ok := Find(everything(), "nothing"); ok {
		t.Error("a fault that is not there is found")
	}
}
