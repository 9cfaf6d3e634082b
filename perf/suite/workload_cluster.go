package main

import "time"

// clusterWorkloads are the rows of a cluster, W7 in README.md. Those of a load are beside the same load on one broker
// and on the null broker, in the same run.
func clusterWorkloads() []*workload {
	beside := func(base string, window time.Duration, rounds int) *workload {
		for _, w := range workloads() {
			if w.id == base {
				c := *w
				c.id, c.title, c.of, c.share = "W7-"+base, w.title+"; three brokers, three replicas", "", 0
				c.beside, c.window, c.rounds = base, window, rounds
				c.systems, c.loop, c.compare, c.quick = []string{sysD2x3}, false, true, true
				return &c
			}
		}
		panic("BUG: no row " + base)
	}
	rows := []*workload{
		beside("W1", 30*time.Second, 5),
		beside("W1-raw", 10*time.Second, 3),
		beside("W2", 10*time.Second, 3),
		beside("W3-64K", 10*time.Second, 3),
		beside("W3-64K-1", 10*time.Second, 3),
		beside("S1", 10*time.Second, 3),
	}
	operation := func(id, title string, run runner) *workload {
		return &workload{
			id: id, title: title, size: recordSmall, systems: []string{sysD2x3}, ring: ringSmall, once: true, rounds: 1,
			quick: true, compare: true, run: run,
		}
	}
	kills := operation("W7-kill", "the leader, then a follower, killed again and again under an open loop of 500 records a second", runKills)
	failover := operation("W7-failover", "how long acknowledgements pause at five kinds of faults", runFailover)
	failover.compare, failover.bare = false, true // it knows Millrace only
	catchUp := operation("W7-catchup", "a follower that was stopped while a backlog was written comes back under an open loop of 5,000 records a second", runFollower)
	catchUp.large, catchUp.ring = true, ringLarge
	meta := operation("W7-meta", "commands of the metadata at 100,000 partitions", runMetadata)
	meta.compare, meta.bare = false, true
	return append(rows, catchUp, operation("W7-partitions", "many partitions: made, and led by others once a node is killed", runPartitions), kills, failover, meta)
}
