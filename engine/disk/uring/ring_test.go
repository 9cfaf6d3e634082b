//go:build !nouring

package uring

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func aligned(n int) []byte {
	b := make([]byte, n+4095)
	skip := int(-uintptr(unsafe.Pointer(&b[0])) & 4095)
	return b[skip : skip+n]
}

// TestEverySetupWorks runs the ring as each generation of kernels gives it: the
// fallbacks must not wait for an old machine to be tried.
func TestEverySetupWorks(t *testing.T) {
	for _, s := range setups {
		t.Run((&Ring{setup: s}).Describe(), func(t *testing.T) {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			eventFD, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
			if err != nil {
				t.Fatal(err)
			}
			r, err := newRing(8, eventFD, s)
			if err != nil {
				t.Skipf("SKIPPED, this kernel refuses: %v", explain(err))
			}
			path := filepath.Join(t.TempDir(), "f")
			f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = f.Close() }()
			fd := int(f.Fd())
			for round := range 50 {
				if round == 25 {
					if err := r.Rebind(); err != nil {
						t.Fatal(err)
					}
				}
				p := aligned(4096)
				p[0] = byte(round)
				r.Fdatasync(fd, 7) // sets flags in an entry that a write will use next
				for slot := range uint32(7) {
					r.Write(fd, p, int64(slot)*4096, slot%2 == 0, slot)
				}
				if err := r.Submit(); err != nil {
					t.Fatal(err)
				}
				if round == 49 {
					break // the last ones are for Close
				}
				var seen uint8
				var got []Result
				for deadline := time.Now().Add(10 * time.Second); seen != 0xff; {
					if time.Now().After(deadline) {
						t.Fatalf("round %d: only slots %08b", round, seen)
					}
					got = r.Reap(got[:0])
					for _, c := range got {
						want := int32(4096)
						if c.Slot == 7 {
							want = 0
						}
						if c.Res != want || seen&(1<<c.Slot) != 0 {
							t.Fatalf("round %d: %+v", round, c)
						}
						seen |= 1 << c.Slot
					}
					if len(got) == 0 {
						fds := []unix.PollFd{{Fd: int32(r.EventFD()), Events: unix.POLLIN}}
						_, _ = unix.Poll(fds, 1000)
					}
				}
			}
			if err := r.Close(8); err != nil {
				t.Fatal(err)
			}
			data, err := os.ReadFile(path)
			if err != nil || len(data) != 7*4096 || data[0] != 49 {
				t.Fatalf("%d bytes, %v", len(data), err)
			}
		})
	}
}

func TestRefusalIsExplained(t *testing.T) {
	for _, errno := range []unix.Errno{unix.ENOSYS, unix.EPERM, unix.EACCES, unix.EINVAL, unix.ENOMEM} {
		if err := explain(errno); !errors.Is(err, errno) || len(err.Error()) < len(errno.Error())+20 {
			t.Errorf("%v: %v", errno, err)
		}
	}
}

func TestCloseByAStrangerSaysSo(t *testing.T) {
	r, _, err := New(2)
	if err != nil {
		t.Skipf("SKIPPED: %v", err)
	}
	if r.setup.flags != flagsDefer {
		_ = r.Close(0)
		t.Skip("SKIPPED: this kernel does not tie a ring to a thread")
	}
	// Nothing that this ring offers stays in flight for long: only the count is pretended.
	owned := make(chan error)
	go func() {
		runtime.LockOSThread()
		r.Fdatasync(-1, 0)
		owned <- r.Submit()
		<-owned //nolint:errcheck // only a word: go on
	}()
	if err := <-owned; err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := r.Close(2); !errors.Is(err, ErrOwner) {
		t.Errorf("close with operations in flight: %v", err)
	}
	close(owned)
}
