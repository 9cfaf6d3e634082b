package simdisk

import (
	"maps"
	"slices"
)

// Policy says what a power cut does to what was not flushed. The numbers are
// chances between 0 and 1.
type Policy struct {
	Keep      float64 // an unsynced block keeps one of its versions
	Tear      float64 // a kept block is torn: some sectors old, some new
	KeepSize  float64 // an unsynced size is kept
	KeepNames float64 // an unsynced change of a folder is kept
	InOrder   bool    // the changes of a folder are kept as a prefix only, as a journal does
}

// LoseAll is the harshest cut: only what was flushed is left.
func LoseAll() Policy { return Policy{} }

// KeepAll is the mildest cut: everything completed is left.
func KeepAll() Policy { return Policy{Keep: 1, KeepSize: 1, KeepNames: 1, InOrder: true} }

// RandomPolicy draws a policy from the disk's seed: between all and nothing.
func (d *Disk) RandomPolicy() Policy {
	d.mu.Lock()
	defer d.mu.Unlock()
	chance := func() float64 { return []float64{0, 0.1, 0.5, 0.9, 1}[d.rng.IntN(5)] }
	return Policy{Keep: chance(), Tear: []float64{0, 0.1, 0.5}[d.rng.IntN(3)], KeepSize: chance(), KeepNames: chance(), InOrder: d.rng.IntN(2) == 0}
}

// Crash cuts the power and restores it: what policy does not keep of the unflushed
// state is gone, all handles, queues and locks are dead, and the boot id is new.
func (d *Disk) Crash(policy Policy) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.die()
	d.boot++
	d.stats.Crashes++
	done := make(map[*inode]bool)
	d.cutNames(d.root, policy)
	d.allocated = 0
	d.walk(d.root, func(n *node) {
		if n.isDir() {
			return
		}
		n.inode.links++
		if !done[n.inode] {
			done[n.inode] = true
			n.inode.links = 1
			n.inode.handles = 0
			d.cutContent(n.inode, policy)
			d.allocated += n.inode.allocatedBytes()
		}
	})
}

// Kill ends the process: what completed stays as it was, flushed or not; handles,
// queues and locks are dead.
func (d *Disk) Kill() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.die()
	d.stats.Kills++
	d.allocated = 0
	d.walk(d.root, func(n *node) {
		if !n.isDir() {
			n.inode.handles = 0
			d.allocated += n.inode.allocatedBytes()
		}
	})
}

// die ends everything that lives in the process.
func (d *Disk) die() {
	for _, q := range d.queues {
		q.lose()
	}
	d.queues = nil
	clear(d.locks)
	d.epoch++
	d.off = false
	d.cutAt = 0
}

// cutNames decides which changed names of a folder survive.
func (d *Disk) cutNames(n *node, policy Policy) {
	entries := maps.Clone(n.durable)
	for _, c := range n.changes {
		if d.rng.Float64() < policy.KeepNames {
			c.apply(entries)
			d.stats.NamesKept++
			continue
		}
		d.stats.NamesLost++
		if policy.InOrder {
			break
		}
	}
	n.entries, n.durable, n.changes = entries, maps.Clone(entries), nil
	for _, name := range sortedNames(entries) {
		if child := entries[name]; child.isDir() {
			d.cutNames(child, policy)
		}
	}
}

// cutContent decides what survives of a file's unsynced blocks and size.
func (d *Disk) cutContent(i *inode, policy Policy) {
	if i.size != i.durableSize && d.rng.Float64() >= policy.KeepSize {
		d.stats.SizesLost++
		i.size = i.durableSize
	}
	i.durableSize = i.size
	for _, number := range slices.Sorted(maps.Keys(i.dirty)) {
		b := i.blocks[number]
		b.durable = d.cutBlock(b, policy)
		b.versions = nil
	}
	clear(i.dirty)
	for number, b := range i.blocks {
		switch end := i.size - number*blockSize; {
		case end <= 0:
			// Beyond the end of the file nothing can be read again.
			delete(i.blocks, number)
		case end < blockSize && b.durable != nil:
			// A filesystem shows zeros where the file grows again.
			cut := make([]byte, blockSize)
			copy(cut, b.durable[:end])
			b.durable = cut
		}
		b.current = b.durable
	}
}

func (d *Disk) cutBlock(b *block, policy Policy) []byte {
	if d.rng.Float64() >= policy.Keep {
		d.stats.BlocksLost++
		return b.durable
	}
	kept := b.versions[d.rng.IntN(len(b.versions))].data
	// The newest version is the likeliest: a device rarely keeps history.
	if d.rng.IntN(4) > 0 {
		kept = b.versions[len(b.versions)-1].data
	}
	if d.rng.Float64() >= policy.Tear {
		d.stats.BlocksKept++
		return kept
	}
	d.stats.BlocksTorn++
	torn := make([]byte, blockSize)
	copy(torn, b.durable)
	for s := 0; s < blockSize; s += sectorSize {
		if d.rng.IntN(2) == 0 {
			clear(torn[s : s+sectorSize])
			if kept != nil {
				copy(torn[s:s+sectorSize], kept[s:s+sectorSize])
			}
		}
	}
	return torn
}
