package broker

// place assigns replicas to count new partitions: leaders go round the
// brokers, beginning at start, and the followers of a partition are the next
// brokers after its leader, one further apart each time the leaders have been
// round, so that the partitions of one broker have their followers everywhere.
// It is Kafka's scheme without racks. brokers must hold at least rf ids.
func place(brokers []int32, first, count, rf, start int) [][]int32 {
	n := len(brokers)
	if rf < 1 || rf > n {
		panic("BUG: place: more replicas than brokers")
	}
	out := make([][]int32, count)
	// All assignments share one piece of memory.
	ids := make([]int32, count*rf)
	for i := range out {
		p := first + i
		replicas := ids[i*rf : (i+1)*rf : (i+1)*rf]
		leader := (start + p) % n
		replicas[0] = brokers[leader]
		for j := 1; j < rf; j++ {
			shift := 1 + (p/n+j-1)%(n-1)
			replicas[j] = brokers[(leader+shift)%n]
		}
		out[i] = replicas
	}
	return out
}
