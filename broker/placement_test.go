package broker

import (
	"math/rand/v2"
	"testing"
)

func TestPlacementIsEvenAndNeverDoubled(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		n := 1 + rng.IntN(9)
		rf := 1 + rng.IntN(n)
		brokers := make([]int32, n)
		for i := range brokers {
			brokers[i] = int32(10*i + 1)
		}
		first, count := rng.IntN(20), 1+rng.IntN(100)
		leaders, replicas := map[int32]int{}, map[int32]int{}
		for _, r := range place(brokers, first, count, rf, rng.IntN(1000)) {
			if len(r) != rf {
				t.Fatalf("%d replicas, not %d", len(r), rf)
			}
			seen := map[int32]bool{}
			for _, id := range r {
				if seen[id] {
					t.Fatalf("%v holds a broker twice (%d brokers)", r, n)
				}
				seen[id] = true
				replicas[id]++
			}
			leaders[r[0]]++
		}
		for _, id := range brokers {
			if l := leaders[id]; l < count/n || l > (count+n-1)/n {
				t.Fatalf("broker %d leads %d of %d partitions, %d brokers", id, l, count, n)
			}
		}
	}
}

func TestPlacementGoesOnWhereTheTopicEnded(t *testing.T) {
	brokers := []int32{1, 2, 3}
	whole := place(brokers, 0, 10, 2, 5)
	more := place(brokers, 4, 6, 2, 5)
	for i, r := range more {
		if r[0] != whole[4+i][0] || r[1] != whole[4+i][1] {
			t.Errorf("partition %d: %v, not %v", 4+i, r, whole[4+i])
		}
	}
}
