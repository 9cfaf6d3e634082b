package engine

// warmAhead is how many free slabs have their pages before they are needed.
const warmAhead = 2

// warmSlabs faults in the slabs that come next, until quit. The first round through a large ring is nothing but page faults
// otherwise, each of which zeroes two megabytes on the thread that appends.
func (s *Shard) warmSlabs(quit <-chan struct{}) {
	for {
		select {
		case <-quit:
			return
		case <-s.cold:
		}
		for b := s.nextCold(); b != nil; b = s.nextCold() {
			b.own.Populate()
		}
	}
}

// nextCold takes the next slab to be warmed, nil when enough are warm.
func (s *Shard) nextCold() *slab {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.freeSlabs) - 1; i >= max(0, len(s.freeSlabs)-warmAhead); i-- {
		if b := s.freeSlabs[i]; !b.warm {
			b.warm = true
			return b
		}
	}
	return nil
}
