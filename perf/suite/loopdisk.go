package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The disks that a row can be on.
const (
	diskOwn  = "own"       // the one of --dir
	diskLoop = "loop-ext4" // an ext4 with a journal, in a file on the same disk
)

// loopBytes is the size of the file system in a file. It takes space only where it is written.
const loopBytes = 12 << 30

// loopDisk is a mounted file system in a file: the machine's own may have no journal, or not be ext4.
type loopDisk struct{ image, device, mount string }

func mountLoop(ctx context.Context, base string) (*loopDisk, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("it takes root to mount")
	}
	dir, err := os.MkdirTemp(base, "perf-loop-*")
	if err != nil {
		return nil, err
	}
	d := &loopDisk{image: filepath.Join(dir, "image"), mount: filepath.Join(dir, "mount")}
	if err := d.make(ctx); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

func (d *loopDisk) make(ctx context.Context) error {
	if err := os.Mkdir(d.mount, 0o755); err != nil {
		return err
	}
	f, err := os.Create(d.image)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(loopBytes), f.Close()); err != nil {
		return err
	}
	if out, err := output(ctx, "mkfs.ext4", "-q", "-F", "-J", "size=128", d.image); err != nil {
		return fmt.Errorf("mkfs.ext4: %w: %s", err, out)
	}
	// Direct I/O on the file below, or the page cache would be measured.
	device, err := output(ctx, "losetup", "--find", "--show", "--direct-io=on", d.image)
	if err != nil {
		return fmt.Errorf("losetup: %w", err)
	}
	d.device = strings.TrimSpace(device)
	if out, err := output(ctx, "mount", "-t", "ext4", d.device, d.mount); err != nil {
		return fmt.Errorf("mount: %w: %s", err, out)
	}
	return nil
}

// close takes everything away again, also what was made only in part.
func (d *loopDisk) close() {
	if d == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	_, _ = output(ctx, "umount", d.mount) // not mounted, perhaps
	if d.device != "" {
		_, _ = output(ctx, "losetup", "-d", d.device)
	}
	_ = os.RemoveAll(filepath.Dir(d.image))
}
