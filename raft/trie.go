package raft

import "math/bits"

// trie is an immutable hash trie: with and without return a new trie that shares all but the
// O(log32 n) nodes on the path, so that one change among 100,000 topics copies a few hundred bytes.
// The zero value is empty. The shape depends only on the keys, hence iteration order is the same
// on every replica, but it is no order that a reader would recognise.
type trie[K comparable, V any] struct {
	root *trieNode[K, V]
	len  int
	hash func(K) uint64
}

const (
	trieBits  = 5
	trieWidth = 1 << trieBits
	trieDepth = 64 / trieBits // below it keys with the same hash share one leaf list
)

// trieNode is a branch (bitmap != 0 or children) or, at the bottom, a list of leaves.
type trieNode[K comparable, V any] struct {
	bitmap uint32
	slots  []trieSlot[K, V] // one per set bit, in bit order; at trieDepth a plain list
}

// trieSlot holds either a child or one leaf.
type trieSlot[K comparable, V any] struct {
	child *trieNode[K, V]
	leaf  *trieLeaf[K, V]
}

type trieLeaf[K comparable, V any] struct {
	hash  uint64
	key   K
	value V
}

func newTrie[K comparable, V any](hash func(K) uint64) trie[K, V] {
	return trie[K, V]{hash: hash}
}

// get returns the value of k.
func (t trie[K, V]) get(k K) (v V, ok bool) {
	n, h := t.root, uint64(0)
	if n != nil {
		h = t.hash(k)
	}
	for depth := 0; n != nil; depth++ {
		if depth == trieDepth {
			for _, s := range n.slots {
				if s.leaf.key == k {
					return s.leaf.value, true
				}
			}
			return v, false
		}
		bit := uint32(1) << trieIndex(h, depth)
		if n.bitmap&bit == 0 {
			return v, false
		}
		s := n.slots[bits.OnesCount32(n.bitmap&(bit-1))]
		if s.leaf != nil {
			if s.leaf.key == k {
				return s.leaf.value, true
			}
			return v, false
		}
		n = s.child
	}
	return v, false
}

// with returns a trie in which k has value v.
func (t trie[K, V]) with(k K, v V) trie[K, V] {
	root, added := trieInsert(t.root, &trieLeaf[K, V]{hash: t.hash(k), key: k, value: v}, 0)
	t.root = root
	if added {
		t.len++
	}
	return t
}

// without returns a trie that lacks k.
func (t trie[K, V]) without(k K) trie[K, V] {
	if t.root == nil {
		return t
	}
	root, removed := trieRemove(t.root, t.hash(k), k, 0)
	if removed {
		t.root = root
		t.len--
	}
	return t
}

// each calls f for every entry until f returns false.
func (t trie[K, V]) each(f func(K, V) bool) {
	t.root.each(f)
}

func (n *trieNode[K, V]) each(f func(K, V) bool) bool {
	if n == nil {
		return true
	}
	for _, s := range n.slots {
		if s.leaf != nil {
			if !f(s.leaf.key, s.leaf.value) {
				return false
			}
		} else if !s.child.each(f) {
			return false
		}
	}
	return true
}

// update returns a trie in which f has replaced the values of the keys for which it says so. It
// copies each touched node once, where a with for each key would copy its whole path every time.
func (t trie[K, V]) update(f func(K, V) (V, bool)) trie[K, V] {
	t.root = t.root.update(f)
	return t
}

func (n *trieNode[K, V]) update(f func(K, V) (V, bool)) *trieNode[K, V] {
	if n == nil {
		return nil
	}
	out := n
	for i, s := range n.slots {
		if s.leaf != nil {
			v, changed := f(s.leaf.key, s.leaf.value)
			if !changed {
				continue
			}
			s.leaf = &trieLeaf[K, V]{hash: s.leaf.hash, key: s.leaf.key, value: v}
		} else {
			child := s.child.update(f)
			if child == s.child {
				continue
			}
			s.child = child
		}
		if out == n {
			out = &trieNode[K, V]{bitmap: n.bitmap, slots: append([]trieSlot[K, V](nil), n.slots...)}
		}
		out.slots[i] = s
	}
	return out
}

// trieDiff calls f for every key whose leaf differs between a and b; subtrees that both share are
// skipped, so its cost follows the changes and not the size.
func trieDiff[K comparable, V any](a, b trie[K, V], f func(k K, old V, hadOld bool, now V, hasNow bool)) {
	trieDiffNodes(a.root, b.root, 0, f)
}

func trieDiffNodes[K comparable, V any](a, b *trieNode[K, V], depth int, f func(K, V, bool, V, bool)) {
	if a == b {
		return
	}
	if a == nil || b == nil || depth == trieDepth {
		trieDiffLeaves(a, b, f)
		return
	}
	for i := 0; i < trieWidth; i++ {
		bit := uint32(1) << i
		sa, sb := a.slot(bit), b.slot(bit)
		if sa == sb {
			continue
		}
		if sa.child != nil && sb.child != nil {
			trieDiffNodes(sa.child, sb.child, depth+1, f)
			continue
		}
		// A leaf met a subtree (or nothing): both sides are small in all but degenerate shapes.
		trieDiffLeaves(sa.asNode(), sb.asNode(), f)
	}
}

func trieDiffLeaves[K comparable, V any](a, b *trieNode[K, V], f func(K, V, bool, V, bool)) {
	la, lb := a.leaves(nil), b.leaves(nil)
	now := make(map[K]*trieLeaf[K, V], len(lb))
	for _, l := range lb {
		now[l.key] = l
	}
	var none V
	old := make(map[K]bool, len(la))
	for _, l := range la {
		old[l.key] = true
		switch n := now[l.key]; {
		case n == nil:
			f(l.key, l.value, true, none, false)
		case n != l:
			f(l.key, l.value, true, n.value, true)
		}
	}
	for _, l := range lb {
		if !old[l.key] {
			f(l.key, none, false, l.value, true)
		}
	}
}

func (n *trieNode[K, V]) leaves(dst []*trieLeaf[K, V]) []*trieLeaf[K, V] {
	if n == nil {
		return dst
	}
	for _, s := range n.slots {
		if s.leaf != nil {
			dst = append(dst, s.leaf)
		} else {
			dst = s.child.leaves(dst)
		}
	}
	return dst
}

func (n *trieNode[K, V]) slot(bit uint32) trieSlot[K, V] {
	if n.bitmap&bit == 0 {
		return trieSlot[K, V]{}
	}
	return n.slots[bits.OnesCount32(n.bitmap&(bit-1))]
}

func (s trieSlot[K, V]) asNode() *trieNode[K, V] {
	if s.leaf != nil {
		return &trieNode[K, V]{slots: []trieSlot[K, V]{s}}
	}
	return s.child
}

func trieIndex(hash uint64, depth int) uint {
	return uint(hash>>(depth*trieBits)) & (trieWidth - 1)
}

func trieInsert[K comparable, V any](n *trieNode[K, V], l *trieLeaf[K, V], depth int) (*trieNode[K, V], bool) {
	if n == nil {
		n = &trieNode[K, V]{}
	}
	if depth == trieDepth {
		for i, s := range n.slots {
			if s.leaf.key == l.key {
				return n.replace(i, trieSlot[K, V]{leaf: l}), false
			}
		}
		slots := make([]trieSlot[K, V], len(n.slots)+1)
		copy(slots, n.slots)
		slots[len(n.slots)] = trieSlot[K, V]{leaf: l}
		return &trieNode[K, V]{slots: slots}, true
	}
	bit := uint32(1) << trieIndex(l.hash, depth)
	i := bits.OnesCount32(n.bitmap & (bit - 1))
	if n.bitmap&bit == 0 {
		slots := make([]trieSlot[K, V], len(n.slots)+1)
		copy(slots, n.slots[:i])
		slots[i] = trieSlot[K, V]{leaf: l}
		copy(slots[i+1:], n.slots[i:])
		return &trieNode[K, V]{bitmap: n.bitmap | bit, slots: slots}, true
	}
	s := n.slots[i]
	switch {
	case s.leaf == nil:
		child, added := trieInsert(s.child, l, depth+1)
		return n.replace(i, trieSlot[K, V]{child: child}), added
	case s.leaf.key == l.key:
		return n.replace(i, trieSlot[K, V]{leaf: l}), false
	default:
		child, _ := trieInsert(nil, s.leaf, depth+1)
		child, _ = trieInsert(child, l, depth+1)
		return n.replace(i, trieSlot[K, V]{child: child}), true
	}
}

// trieRemove returns nil for a node that became empty, and pulls a lone leaf up so that the shape
// is the one that insertion of the remaining keys would have made.
func trieRemove[K comparable, V any](n *trieNode[K, V], hash uint64, k K, depth int) (*trieNode[K, V], bool) {
	if depth == trieDepth {
		for i, s := range n.slots {
			if s.leaf.key == k {
				return n.drop(i, 0), true
			}
		}
		return n, false
	}
	bit := uint32(1) << trieIndex(hash, depth)
	if n.bitmap&bit == 0 {
		return n, false
	}
	i := bits.OnesCount32(n.bitmap & (bit - 1))
	s := n.slots[i]
	if s.leaf != nil {
		if s.leaf.key != k {
			return n, false
		}
		return n.drop(i, bit), true
	}
	child, removed := trieRemove(s.child, hash, k, depth+1)
	switch {
	case !removed:
		return n, false
	case child == nil:
		return n.drop(i, bit), true
	case len(child.slots) == 1 && child.slots[0].leaf != nil:
		return n.replace(i, child.slots[0]), true
	default:
		return n.replace(i, trieSlot[K, V]{child: child}), true
	}
}

func (n *trieNode[K, V]) replace(i int, s trieSlot[K, V]) *trieNode[K, V] {
	slots := make([]trieSlot[K, V], len(n.slots))
	copy(slots, n.slots)
	slots[i] = s
	return &trieNode[K, V]{bitmap: n.bitmap, slots: slots}
}

func (n *trieNode[K, V]) drop(i int, bit uint32) *trieNode[K, V] {
	if len(n.slots) == 1 {
		return nil
	}
	slots := make([]trieSlot[K, V], 0, len(n.slots)-1)
	slots = append(append(slots, n.slots[:i]...), n.slots[i+1:]...)
	return &trieNode[K, V]{bitmap: n.bitmap &^ bit, slots: slots}
}

// hashString is FNV-1a with a final mix: the trie eats the low bits first, and FNV's low bits of
// names that differ in their last character only are poor.
func hashString(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := 0; i < len(s); i++ {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return mix(h)
}

func hashUUID(u UUID) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range u {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return mix(h)
}

func hashResource(r ConfigResource) uint64 {
	return mix(hashString(r.Name) ^ uint64(uint8(r.Type)))
}

func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	return h
}
