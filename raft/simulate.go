package raft

import "context"

// EmptyImage is the image before the first command.
func EmptyImage() *Image { return newImage() }

// Apply does to an image what the replicated log does with a command at an index: a pure function, for simulations
// that put a model in the place of Node.Propose. An error means that a real replica would have stopped.
func (m *Image) Apply(index uint64, c Command) (*Image, Result, error) {
	b, err := encodeCommand(c)
	if err != nil {
		return m, Result{}, err
	}
	return applyBytes(m, index, b)
}

// Proposer is the seam between those who decide and the log: *Node, or a model of it.
type Proposer interface {
	Image() *Image
	Propose(ctx context.Context, c Command) (Result, error)
}

var _ Proposer = (*Node)(nil)
