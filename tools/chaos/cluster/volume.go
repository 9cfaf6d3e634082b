package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"millrace/tools/powercut"
)

// Volume is where a node's data is.
type Volume struct {
	path string
	disk *powercut.Disk // nil: a folder of the machine's own filesystem
	lies bool
}

// diskBytes is the size of a disk of a node's own: a sparse file.
const diskBytes = 4 << 30

func newVolume(dir string, disk bool) (*Volume, error) {
	if !disk {
		v := &Volume{path: dir}
		return v, os.MkdirAll(dir, 0o755)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	d, err := powercut.New(dir, diskBytes)
	if err != nil {
		return nil, err
	}
	return &Volume{path: d.Path(), disk: d}, d.Start()
}

// Data is the data directory.
func (v *Volume) Data() string { return filepath.Join(v.path, "data") }

// CutPower loses what was not flushed. Until Restore everything fails.
func (v *Volume) CutPower(r *rand.Rand) error {
	if v.lies {
		// The filesystem believes the lie, too: it survives only as the whole that it was at the last true flush.
		return v.disk.CutHard()
	}
	return v.disk.Cut(r)
}

// Restore mounts again what survived. Nobody may use the volume.
func (v *Volume) Restore() error {
	err := errors.Join(v.disk.Stop(), v.disk.Start())
	v.SetFaults(powercut.Faults{})
	return err
}

// Lie makes flushes do nothing and succeed, from now on: a control that must be found out.
func (v *Volume) Lie() {
	v.lies = true
	v.SetFaults(powercut.Faults{})
}

// SetFaults makes the disk misbehave until the next Restore.
func (v *Volume) SetFaults(f powercut.Faults) {
	f.LieFsync = v.lies
	v.disk.SetFaults(f)
}

// ballastName is the file that uses up the space.
const ballastName = "ballast"

// Fill leaves so many bytes free.
func (v *Volume) Fill(leave int64) error {
	var s unix.Statfs_t
	if err := unix.Statfs(v.path, &s); err != nil {
		return err
	}
	size := int64(s.Bavail)*s.Bsize - leave
	if size <= 0 {
		return nil
	}
	f, err := os.Create(filepath.Join(v.path, ballastName))
	if err != nil {
		return err
	}
	err = unix.Fallocate(int(f.Fd()), 0, 0, size)
	if errors.Is(err, syscall.ENOSPC) {
		err = nil // somebody was quicker: it is full
	}
	if err != nil {
		err = fmt.Errorf("use up %d bytes: %w", size, err)
	}
	return errors.Join(err, f.Close())
}

// Unfill gives the space back.
func (v *Volume) Unfill() error {
	if err := os.Remove(filepath.Join(v.path, ballastName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Release takes the mounts away. The data of a disk can no longer be reached.
func (v *Volume) Release() error {
	if v.disk == nil {
		return nil
	}
	return v.disk.Stop()
}
