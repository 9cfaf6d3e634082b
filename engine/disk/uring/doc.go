// Package uring is one io_uring for one OS thread, over giouring. It is the only
// package that imports giouring; with the build tag nouring, New refuses and
// giouring is not linked.
//
//	owner thread:  Write, Fdatasync ... -> Submit -> (eventfd readable) -> Reap
//
// It knows descriptors, memory and slots (a slot is the caller's name for an
// operation, returned with its result), so that package disk can use it without a
// cycle.
//
// # Kernel
//
// The ring asks for SINGLE_ISSUER, DEFER_TASKRUN, TASKRUN_FLAG and SUBMIT_ALL
// (Linux 6.1). With them a completion interrupts nobody: the kernel notes it, sets
// a flag in the ring and signals the eventfd, and the owner's next Reap posts it.
// Reap on an idle ring reads two words of memory and makes no system call. The ring
// is created disabled and enabled by the first Submit, so the thread that uses
// it, not the one that created it, becomes its issuer. Older kernels get
// COOP_TASKRUN or no flags.
//
// # Traps in giouring
//
// Several of its helpers pass wrong pointers or the wrong element size, and its
// Prepare functions leave the flags of the slot's previous user in place. Used here
// are only: QueueInit, GetSQE, PrepareWrite, PrepareFsync (on an entry zeroed by
// hand), RegisterEventFd, EnableRings, SubmitAndWait, ForEachCQE, CQAdvance,
// CQReady, QueueExit. It links only with -ldflags=-checklinkname=0, because it
// pulls syscall.munmap.
package uring
