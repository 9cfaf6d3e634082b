package powercut

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// A cached block is what a power cut decides about as one; a sector is never torn.
const (
	blockSize  = 4096
	sectorSize = 512
)

// cache is a disk with a volatile write cache in front of an image file.
type cache struct {
	mu      sync.Mutex
	image   *os.File
	size    int64
	pending map[int64]*cachedBlock // by block number; completed and not flushed
	cut     bool                   // the power is out: everything fails
	faults  Faults
	stats   Stats
}

// cachedBlock is a block with the sectors that were written since the last flush.
type cachedBlock struct {
	data    [blockSize]byte
	written uint8 // bit s: sector s
}

// Faults makes a powered disk misbehave. The zero value is health.
type Faults struct {
	WriteErr   syscall.Errno // writes fail
	FsyncErr   syscall.Errno // flushes fail, and what they covered stays volatile
	ReadErr    syscall.Errno
	FsyncDelay time.Duration
	// LieFsync lets flushes report success and do nothing: for tests that must fail.
	LieFsync bool
}

// Stats counts what the disk did. The last three belong to cuts.
type Stats struct {
	Writes, Fsyncs   int
	Kept, Lost, Torn int
}

func (c *cache) read(p []byte, off int64) (int, syscall.Errno) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.cut:
		return 0, syscall.EIO
	case c.faults.ReadErr != 0:
		return 0, c.faults.ReadErr
	case off >= c.size:
		return 0, 0
	}
	p = p[:min(int64(len(p)), c.size-off)]
	if _, err := c.image.ReadAt(p, off); err != nil && err != io.EOF {
		return 0, syscall.EIO
	}
	for number := off / blockSize; number*blockSize < off+int64(len(p)); number++ {
		b := c.pending[number]
		if b == nil {
			continue
		}
		for s := range blockSize / sectorSize {
			if b.written&(1<<s) == 0 {
				continue
			}
			overlay(p, off, b.data[s*sectorSize:(s+1)*sectorSize], number*blockSize+int64(s)*sectorSize)
		}
	}
	return len(p), 0
}

// overlay copies the part of src, which lies at srcOff, that falls into dst at dstOff.
func overlay(dst []byte, dstOff int64, src []byte, srcOff int64) {
	from := max(dstOff, srcOff)
	to := min(dstOff+int64(len(dst)), srcOff+int64(len(src)))
	if from < to {
		copy(dst[from-dstOff:to-dstOff], src[from-srcOff:])
	}
}

func (c *cache) write(p []byte, off int64) (int, syscall.Errno) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.cut:
		return 0, syscall.EIO
	case c.faults.WriteErr != 0:
		return 0, c.faults.WriteErr
	case off%sectorSize != 0 || len(p)%sectorSize != 0 || off+int64(len(p)) > c.size:
		// A block device writes whole sectors, inside itself.
		return 0, syscall.EINVAL
	}
	c.stats.Writes++
	for done := 0; done < len(p); done += sectorSize {
		at := off + int64(done)
		b := c.pending[at/blockSize]
		if b == nil {
			b = &cachedBlock{}
			c.pending[at/blockSize] = b
		}
		within := at % blockSize
		copy(b.data[within:within+sectorSize], p[done:])
		b.written |= 1 << (within / sectorSize)
	}
	return len(p), 0
}

func (c *cache) fsync() syscall.Errno {
	c.mu.Lock()
	delay := c.faults.FsyncDelay
	c.mu.Unlock()
	time.Sleep(delay)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.cut:
		return syscall.EIO
	case c.faults.FsyncErr != 0:
		return c.faults.FsyncErr
	case c.faults.LieFsync:
		return 0
	}
	c.stats.Fsyncs++
	for number, b := range c.pending {
		if err := c.store(number, b); err != nil {
			return syscall.EIO
		}
	}
	clear(c.pending)
	return 0
}

// store writes the sectors of b to the image, in runs.
func (c *cache) store(number int64, b *cachedBlock) error {
	for s := 0; s < blockSize/sectorSize; {
		if b.written&(1<<s) == 0 {
			s++
			continue
		}
		end := s
		for end < blockSize/sectorSize && b.written&(1<<end) != 0 {
			end++
		}
		if _, err := c.image.WriteAt(b.data[s*sectorSize:end*sectorSize], number*blockSize+int64(s)*sectorSize); err != nil {
			return fmt.Errorf("write the image: %w", err)
		}
		s = end
	}
	return nil
}

// powerOff decides what of the volatile cache survives. keep is the chance of a
// block, tear the chance that a kept one is torn.
func (c *cache) powerOff(rng *rand.Rand, keep, tear float64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut {
		return nil
	}
	c.cut = true
	numbers := make([]int64, 0, len(c.pending))
	for number := range c.pending {
		numbers = append(numbers, number)
	}
	slices.Sort(numbers)
	for _, number := range numbers {
		b := c.pending[number]
		if rng.Float64() >= keep {
			c.stats.Lost++
			continue
		}
		if rng.Float64() < tear {
			c.stats.Torn++
			b.written &= uint8(rng.Uint32())
		} else {
			c.stats.Kept++
		}
		if err := c.store(number, b); err != nil {
			return err
		}
	}
	clear(c.pending)
	return nil
}

// powerOn empties the cache and accepts work again.
func (c *cache) powerOn() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.pending)
	c.cut, c.faults = false, Faults{}
}
