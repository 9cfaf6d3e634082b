//go:build nouring

package uring

import "errors"

// ErrOwner says that another thread than the ring's owner tried to use it.
var ErrOwner = errors.New("uring: the ring belongs to another thread")

// errNotBuilt is why New refuses.
var errNotBuilt = errors.New("this binary was built with -tags nouring")

// Result is one completion.
type Result struct {
	Slot uint32
	Res  int32
}

// Ring does not exist in this build: New returns none.
type Ring struct{}

// New refuses.
func New(int) (*Ring, string, error) { return nil, "", errNotBuilt }

const noRing = "BUG: a ring in a build without io_uring"

// EventFD is never called.
func (*Ring) EventFD() int { panic(noRing) }

// Describe is never called.
func (*Ring) Describe() string { panic(noRing) }

// Write is never called.
func (*Ring) Write(int, []byte, int64, bool, uint32) { panic(noRing) }

// Fdatasync is never called.
func (*Ring) Fdatasync(int, uint32) { panic(noRing) }

// Submit is never called.
func (*Ring) Submit() error { panic(noRing) }

// Reap is never called.
func (*Ring) Reap([]Result) []Result { panic(noRing) }

// Rebind is never called.
func (*Ring) Rebind() error { panic(noRing) }

// Close is never called.
func (*Ring) Close(int) error { panic(noRing) }
