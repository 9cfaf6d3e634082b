package raft

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
)

func trieMap[K comparable, V any](t trie[K, V]) map[K]V {
	m := map[K]V{}
	t.each(func(k K, v V) bool { m[k] = v; return true })
	return m
}

// TestTrieIsAMap compares the trie with a map through random changes, old versions included, and with a hash
// that collides a lot as well.
func TestTrieIsAMap(t *testing.T) {
	for name, hash := range map[string]func(string) uint64{
		"hash":   hashString,
		"low":    func(s string) uint64 { return hashString(s) & 7 },
		"high":   func(s string) uint64 { return hashString(s) << 60 },
		"always": func(string) uint64 { return 1 },
	} {
		t.Run(name, func(t *testing.T) {
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			rng := rand.New(rand.NewPCG(seed, 1))
			tr, twin := newTrie[string, int](hash), map[string]int{}
			type version struct {
				tr   trie[string, int]
				twin map[string]int
			}
			var old []version
			for i := range 3000 {
				k := fmt.Sprint(rng.IntN(200))
				if rng.IntN(3) == 0 {
					tr = tr.without(k)
					delete(twin, k)
				} else {
					tr = tr.with(k, i)
					twin[k] = i
				}
				if i%250 == 0 {
					tr = tr.update(func(k string, v int) (int, bool) { return v + 1, k < "15" })
					for k, v := range twin {
						if k < "15" {
							twin[k] = v + 1
						}
					}
				}
				if i%100 == 0 {
					old = append(old, version{tr, maps.Clone(twin)})
				}
			}
			old = append(old, version{tr, twin})
			for _, v := range old {
				if v.tr.len != len(v.twin) || !maps.Equal(trieMap(v.tr), v.twin) {
					t.Fatalf("version differs: %d keys, want %d", v.tr.len, len(v.twin))
				}
				for k := range 200 {
					got, ok := v.tr.get(fmt.Sprint(k))
					if want, has := v.twin[fmt.Sprint(k)]; ok != has || got != want {
						t.Fatalf("get %d: %d %v, want %d %v", k, got, ok, want, has)
					}
				}
			}
			for _, a := range old {
				for _, b := range old {
					checkDiff(t, a.tr, b.tr, a.twin, b.twin)
				}
			}
		})
	}
}

func checkDiff(t *testing.T, a, b trie[string, int], ma, mb map[string]int) {
	t.Helper()
	patched := maps.Clone(ma)
	trieDiff(a, b, func(k string, old int, hadOld bool, now int, hasNow bool) {
		if v, ok := ma[k]; ok != hadOld || v != old {
			t.Fatalf("diff says %s was %d %v", k, old, hadOld)
		}
		if v, ok := mb[k]; ok != hasNow || v != now {
			t.Fatalf("diff says %s is %d %v", k, now, hasNow)
		}
		delete(patched, k)
		if hasNow {
			patched[k] = now
		}
	})
	if !maps.Equal(patched, mb) {
		t.Fatal("diff does not lead from one version to the other")
	}
}

// The order of iteration reaches the replicated state (which tombstones are swept first, which topics change
// first): it must depend on the keys only.
func TestTrieOrderDependsOnTheKeysOnly(t *testing.T) {
	order := func(keys []int) (out []string) {
		tr := newTrie[string, int](hashString)
		for _, k := range keys {
			tr = tr.with(fmt.Sprint(k), k)
		}
		for k := range 50 {
			tr = tr.without(fmt.Sprint(k))
		}
		tr.each(func(k string, _ int) bool { out = append(out, k); return true })
		return out
	}
	keys := rand.Perm(1000)
	want := fmt.Sprint(order(keys))
	for range 5 {
		rand.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
		if fmt.Sprint(order(keys)) != want {
			t.Fatal("iteration order depends on history")
		}
	}
}
