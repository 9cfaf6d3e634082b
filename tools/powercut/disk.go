package powercut

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Disk is an ext4 filesystem on a disk whose power can be cut. Its methods are for
// one goroutine; Cut and SetFaults may come from another.
type Disk struct {
	dir    string
	cache  *cache
	server *fuse.Server
}

// ErrUnavailable says that this machine cannot run the harness.
var ErrUnavailable = errors.New("powercut: not possible on this machine")

// Available reports nil, or ErrUnavailable with the reason.
func Available() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: mounting needs root", ErrUnavailable)
	}
	for _, device := range []string{"/dev/fuse", "/dev/loop-control"} {
		fd, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("%w: open %s: %w", ErrUnavailable, device, err)
		}
		_ = unix.Close(fd)
	}
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return nil
}

// New formats a disk of size bytes whose image and mount points are in dir. Its
// power is off until Start.
func New(dir string, size int64) (*Disk, error) {
	if err := Available(); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	for _, sub := range []string{"fuse", "mnt"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	path := filepath.Join(dir, "disk.img")
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := file.Truncate(size); err != nil {
		_ = file.Close()
		return nil, err
	}
	// Everything is initialised now: a lazy kernel thread would write at moments of its own.
	mkfs := exec.Command("mkfs.ext4", "-q", "-F", "-b", fmt.Sprint(blockSize), "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", path)
	if out, err := mkfs.CombinedOutput(); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("mkfs.ext4: %w: %s", err, out)
	}
	return &Disk{dir: dir, cache: &cache{image: file, size: size, pending: make(map[int64]*cachedBlock), cut: true}}, nil
}

// Path is where the filesystem is mounted between Start and Stop.
func (d *Disk) Path() string { return filepath.Join(d.dir, "mnt") }

// Start turns the power on and mounts. ext4 replays its journal.
func (d *Disk) Start() (err error) {
	if d.server != nil {
		panic("BUG: disk started twice")
	}
	d.cache.powerOn()
	options := &fs.Options{MountOptions: fuse.MountOptions{
		DirectMountStrict: true, // mount(2) itself: needs no fusermount
		FsName:            "powercut",
		Name:              "powercut",
		MaxWrite:          1 << 20,
		DisableXAttrs:     true,
	}}
	fuseDir := filepath.Join(d.dir, "fuse")
	if d.server, err = fs.Mount(fuseDir, &folder{cache: d.cache}, options); err != nil {
		d.server = nil
		return fmt.Errorf("mount fuse: %w", err)
	}
	if err := d.mountLoop(filepath.Join(fuseDir, diskName)); err != nil {
		return errors.Join(err, d.Stop())
	}
	return nil
}

func (d *Disk) mountLoop(path string) error {
	loop, err := attachLoop(path)
	if err != nil {
		return err
	}
	// The loop device detaches by itself when its last user, the mount, is gone.
	defer func() { _ = loop.Close() }()
	if err := unix.Mount(loop.Name(), d.Path(), "ext4", 0, ""); err != nil {
		return fmt.Errorf("mount %s: %w (the kernel log says more)", loop.Name(), err)
	}
	return nil
}

// Cut turns the power off: what was not flushed is kept, lost or torn as chance
// wants, and every later access fails. It returns at once and may be called
// while the workload runs.
func (d *Disk) Cut(rng *rand.Rand) error {
	keep := []float64{0, 0.3, 0.7, 1}[rng.IntN(4)]
	tear := []float64{0, 0.2}[rng.IntN(2)]
	return d.cache.powerOff(rng, keep, tear)
}

// CutHard is the Cut that keeps nothing.
func (d *Disk) CutHard() error {
	return d.cache.powerOff(rand.New(rand.NewPCG(0, 0)), 0, 0)
}

// SetFaults makes the disk misbehave until the next Start.
func (d *Disk) SetFaults(f Faults) {
	d.cache.mu.Lock()
	defer d.cache.mu.Unlock()
	d.cache.faults = f
}

// Stats returns the counters since New.
func (d *Disk) Stats() Stats {
	d.cache.mu.Lock()
	defer d.cache.mu.Unlock()
	return d.cache.stats
}

// busyWait bounds how long Stop waits for the last user of a mount: closing files
// of a killed process takes the kernel a moment.
const busyWait = 10 * time.Second

// Stop unmounts. Without a Cut before, it is an orderly shutdown. The workload must
// have ended.
func (d *Disk) Stop() error {
	if d.server == nil {
		return nil
	}
	err := unmount(d.Path())
	if serr := d.unmountFuse(); err == nil {
		err = serr
	}
	d.server = nil
	return err
}

func (d *Disk) unmountFuse() error {
	var err error
	for deadline := time.Now().Add(busyWait); ; time.Sleep(20 * time.Millisecond) {
		// Busy while the loop device still detaches.
		if err = d.server.Unmount(); err == nil || time.Now().After(deadline) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("unmount fuse: %w", err)
	}
	d.server.Wait()
	return nil
}

// unmount detaches path. EINVAL means that it was not mounted.
func unmount(path string) error {
	var err error
	for deadline := time.Now().Add(busyWait); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = unix.Unmount(path, 0); err != unix.EBUSY {
			break
		}
	}
	if err == nil || err == unix.EINVAL {
		return nil
	}
	// Leave nothing behind, but tell: somebody still uses it.
	_ = unix.Unmount(path, unix.MNT_DETACH)
	return fmt.Errorf("unmount %s: %w", path, err)
}

// Close stops the disk and removes its files.
func (d *Disk) Close() error {
	err := d.Stop()
	if cerr := d.cache.image.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Remove(filepath.Join(d.dir, "disk.img"))
}
