package main

import (
	"errors"
	"math/rand/v2"
	"path/filepath"
	"time"

	"millrace/tools/powercut"
	"millrace/tools/process"
)

// ending is how a life of the broker ends.
type ending interface {
	String() string
	data() string                               // the data directory
	end(p *process.Process, r *rand.Rand) error // nothing of the process is left when it returns
	restore() error                             // makes the data directory ready for the next life
	release() error
}

func newEnding(o options, dir string) (ending, error) {
	if !o.power {
		return killed{filepath.Join(dir, "data")}, nil
	}
	d, err := powercut.New(dir, powerDiskBytes)
	if err != nil {
		return nil, err
	}
	return &powerless{d}, d.Start()
}

// killed ends the process with SIGKILL: the kernel lives on.
type killed struct{ dir string }

func (killed) String() string                             { return "kill" }
func (k killed) data() string                             { return k.dir }
func (killed) end(p *process.Process, _ *rand.Rand) error { return p.Kill() }
func (killed) restore() error                             { return nil }
func (killed) release() error                             { return nil }

// powerless cuts the power of the disk: what was not flushed is kept, lost or torn as chance wants.
type powerless struct{ disk *powercut.Disk }

// powerDiskBytes is the size of the disk: a sparse file.
const powerDiskBytes = 4 << 30

// dyingTime is how long a broker may go on without a disk before it is killed. It
// must acknowledge nothing in that time.
const dyingTime = 300 * time.Millisecond

func (*powerless) String() string { return "power" }

func (d *powerless) data() string { return filepath.Join(d.disk.Path(), "data") }

func (d *powerless) end(p *process.Process, r *rand.Rand) error {
	if err := d.disk.Cut(r); err != nil {
		return err
	}
	time.Sleep(dyingTime)
	return p.Kill()
}

func (d *powerless) restore() error { return errors.Join(d.disk.Stop(), d.disk.Start()) }

func (d *powerless) release() error { return d.disk.Stop() }
