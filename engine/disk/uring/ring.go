//go:build !nouring

package uring

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"github.com/pawelgaczynski/giouring"
	"golang.org/x/sys/unix"
)

// ErrOwner says that another thread than the ring's owner tried to use it.
var ErrOwner = errors.New("uring: the ring belongs to another thread")

// Result is one completion: the slot given with the operation, and the kernel's
// answer (bytes, or a negative errno).
type Result struct {
	Slot uint32
	Res  int32
}

// Ring is one io_uring with an eventfd. It is used by one thread.
type Ring struct {
	ring     *giouring.Ring
	entries  uint32
	setup    setup
	bound    bool // the owner thread is known; true from the start if the kernel does not care
	eventFD  int
	idle     uint // Reap calls since the last one that found something
	dst      []Result
	onResult func(*giouring.CompletionQueueEvent) // collect as a value, made once
}

// setup is one way to ask for a ring.
type setup struct {
	flags   uint32
	warning string
}

const (
	flagsDefer = giouring.SetupRDisabled | giouring.SetupSubmitAll | giouring.SetupTaskrunFlag |
		giouring.SetupSingleIssuer | giouring.SetupDeferTaskrun
	flagsCoop = giouring.SetupSubmitAll | giouring.SetupTaskrunFlag | giouring.SetupCoopTaskrun
)

// setups is tried in order.
var setups = []setup{
	{flagsDefer, ""}, // Linux 6.1
	{flagsCoop, "this kernel has io_uring without DEFER_TASKRUN (Linux 6.1): completions interrupt their thread"},          // 5.19
	{giouring.SetupSubmitAll, "this kernel has io_uring without COOP_TASKRUN (Linux 5.19): completions interrupt threads"}, // 5.18
}

// New creates a ring for up to entries operations in flight. warning tells what
// an older kernel did not give.
func New(entries int) (*Ring, string, error) {
	eventFD, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, "", fmt.Errorf("eventfd: %w", err)
	}
	var r *Ring
	for _, s := range setups {
		if r, err = newRing(entries, eventFD, s); !errors.Is(err, unix.EINVAL) {
			break // it works, or another request would not change the answer
		}
	}
	if err != nil {
		_ = unix.Close(eventFD)
		return nil, "", explain(err)
	}
	return r, r.setup.warning, nil
}

func newRing(entries, eventFD int, s setup) (*Ring, error) {
	r := &Ring{entries: uint32(entries), eventFD: eventFD, setup: s}
	r.onResult = r.collect
	return r, r.open()
}

// explain says in words why the kernel refuses a ring.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.ENOSYS):
		return fmt.Errorf("the kernel, or a seccomp filter, does not offer io_uring: %w", err)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("io_uring is forbidden here (sysctl kernel.io_uring_disabled, or a seccomp filter): %w", err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("the kernel's io_uring is too old (Linux 5.18 is needed): %w", err)
	case errors.Is(err, unix.ENOMEM):
		return fmt.Errorf("no memory for an io_uring (RLIMIT_MEMLOCK): %w", err)
	}
	return err
}

func (r *Ring) open() error {
	ring := giouring.NewRing()
	if err := ring.QueueInit(r.entries, r.setup.flags); err != nil {
		return fmt.Errorf("io_uring_setup: %w", err)
	}
	if _, err := ring.RegisterEventFd(r.eventFD); err != nil {
		ring.QueueExit()
		return fmt.Errorf("register an eventfd: %w", err)
	}
	r.ring, r.bound = ring, r.setup.flags&giouring.SetupRDisabled == 0
	return nil
}

// EventFD is readable when Reap has something to do. Reap clears it.
func (r *Ring) EventFD() int { return r.eventFD }

// Describe names the setup flags in use.
func (r *Ring) Describe() string {
	switch {
	case r.setup.flags&giouring.SetupDeferTaskrun != 0:
		return "SINGLE_ISSUER|DEFER_TASKRUN|TASKRUN_FLAG|SUBMIT_ALL"
	case r.setup.flags&giouring.SetupCoopTaskrun != 0:
		return "COOP_TASKRUN|TASKRUN_FLAG|SUBMIT_ALL"
	}
	return "SUBMIT_ALL"
}

// Write prepares a write of p. The caller keeps p alive and unchanged until its result.
func (r *Ring) Write(fd int, p []byte, off int64, dsync bool, slot uint32) {
	e := r.entry()
	e.PrepareWrite(fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uint32(len(p)), uint64(off))
	if dsync {
		e.OpcodeFlags = unix.RWF_DSYNC
	}
	e.UserData = uint64(slot)
}

// Fdatasync prepares a flush of fd's data.
func (r *Ring) Fdatasync(fd int, slot uint32) {
	e := r.entry()
	e.PrepareFsync(fd, giouring.FsyncDatasync)
	e.UserData = uint64(slot)
}

// entry returns the next submission entry, all zero: giouring's Prepare functions
// set only some of the fields, and a flag left by the entry's last user would
// turn a write into something else.
func (r *Ring) entry() *giouring.SubmissionQueueEntry {
	e := r.ring.GetSQE()
	if e == nil {
		panic(fmt.Sprintf("BUG: more than %d operations in the ring", r.entries))
	}
	*e = giouring.SubmissionQueueEntry{}
	return e
}

// submitTries bounds how often Submit asks a kernel that has no memory for a request.
const submitTries = 1000

// Submit hands the prepared operations to the kernel. The first call binds the
// ring to its thread. ErrOwner: nothing was submitted, see Rebind.
func (r *Ring) Submit() error {
	if !r.bound {
		if _, err := r.ring.EnableRings(); err != nil {
			return fmt.Errorf("enable the ring: %w", err)
		}
		r.bound = true
	}
	for try := 0; ; try++ {
		// With nothing to wait for, io_uring_enter returns once the operations are on
		// their way; it also posts completions that are ready.
		_, err := r.ring.SubmitAndWait(0)
		switch {
		case err == nil:
			if r.ring.SQReady() == 0 {
				return nil
			}
			err = unix.EAGAIN // it took some only
		case errors.Is(err, unix.EEXIST):
			return ErrOwner
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EBUSY):
		default:
			return fmt.Errorf("io_uring_enter: %w", err)
		}
		if try == submitTries {
			return fmt.Errorf("io_uring_enter: %w", err)
		}
		runtime.Gosched()
	}
}

// idleTurns is how many fruitless Reap calls are made before the eventfd is cleared
// for no better reason.
const idleTurns = 64

// Reap appends the results that are there. It never blocks, and makes no system call
// when nothing has happened (but one in idleTurns calls).
func (r *Ring) Reap(dst []Result) []Result {
	if r.idle++; r.idle%idleTurns == 0 {
		// Posting completions signals the eventfd once more, and such a signal may
		// arrive after the last Reap had cleared it. That is rare, but a
		// level-triggered poller would spin on it until the next completion.
		r.clear()
	}
	r.dst = dst
	for r.post() {
		before := len(r.dst)
		r.ring.ForEachCQE(r.onResult)
		found := len(r.dst) - before
		if found == 0 {
			break
		}
		r.ring.CQAdvance(uint32(found))
		r.idle = 0
		// Clear first and look again after: what comes later signals again.
		r.clear()
	}
	dst, r.dst = r.dst, nil
	return dst
}

// post lets the kernel post what has completed, and reports whether the
// completion ring may hold something.
func (r *Ring) post() bool {
	if !r.bound {
		return false
	}
	for {
		// No submission, no waiting: this enters the kernel only when the ring's flag
		// says that completions wait to be posted.
		_, err := r.ring.SubmitAndWait(0)
		switch {
		case err == nil, errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EBUSY):
			return r.ring.CQReady() > 0
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EEXIST):
			panic("BUG: ring reaped by a thread that does not own it")
		default:
			panic(fmt.Sprintf("BUG: reap io_uring: %v", err))
		}
	}
}

func (r *Ring) collect(e *giouring.CompletionQueueEvent) {
	r.dst = append(r.dst, Result{Slot: uint32(e.UserData), Res: e.Res})
}

// clear resets the eventfd.
func (r *Ring) clear() {
	var b [8]byte
	for {
		if _, err := unix.Read(r.eventFD, b[:]); err != unix.EINTR {
			return
		}
	}
}

// Rebind gives the ring to the calling thread: the kernel's ring is replaced by
// a new one. Nothing may be in flight; what was prepared must be prepared again.
func (r *Ring) Rebind() error {
	r.ring.QueueExit()
	r.ring = nil
	return r.open()
}

// Close waits for the operations in flight, whose results are lost, and frees
// the ring. Only the owner can wait: from another thread it leaves them to the
// kernel and says so.
func (r *Ring) Close(inflight int) error {
	var err error
	for inflight > 0 {
		if _, err = r.ring.SubmitAndWait(1); err != nil && !errors.Is(err, unix.EINTR) {
			if errors.Is(err, unix.EEXIST) {
				err = ErrOwner
			}
			err = fmt.Errorf("close the ring with %d operations in flight: %w", inflight, err)
			break
		}
		err = nil
		n := r.ring.CQReady()
		r.ring.CQAdvance(n)
		inflight -= int(n)
	}
	r.ring.QueueExit()
	if cerr := unix.Close(r.eventFD); err == nil {
		err = cerr
	}
	return err
}
