// Package doctor says in plain words what a machine gives a broker: kernel, io_uring, the file system and its
// device, what a flush costs, limits, memory, processor, addresses. Each check yields findings; a finding that
// is not good says what to change.
//
// A check never changes the machine. The flush measurement writes a file of its own into the data directory (or
// the nearest directory above it that exists) and removes it.
package doctor
