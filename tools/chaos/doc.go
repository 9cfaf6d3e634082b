// Chaos takes a real cluster apart under load and checks that it kept its promises.
//
//	                     seed
//	                      |
//	chaos/fault  kill, pause, restart, cut, fill ...      chaos/load  producers, readers, group, commits
//	                      |                                    |            |
//	               chaos/cluster: three broker processes  <----+         events
//	                      |                                                 |
//	chaos/replicas  the stopped directories, compared            chaos/history  the judge
//
// A run begins with nodes that know nothing, loads them, lets faults happen that follow from the seed, takes them
// all back, and then wants: every partition takes records within 30 seconds, every replica is in sync, everything can be
// read, all nodes end in an orderly way, their directories are sound and hold the same batches. What clients were told in
// all that time must fit together (package history). At the first violation the run stops; the history, the logs of
// the nodes and their data are kept.
//
//	chaos -bin bin/millrace -duration 5m                  on loopback: kill, pause, restart
//	chaos -network -disks                                 with partitions and power cuts (root)
//	chaos -nodes 1                                        a standalone broker
//	chaos -faults kill,pause -seed 7                      some faults; a seed again
//	chaos -expect-violation any                           the broker is broken on purpose: it must be found out
//	chaos -lie -disks -expect-violation lost-write        the same, by disks that lie about flushes
//	chaos -check history                                  judge a recorded history again
//	chaos -failover -rounds 20                            how long acknowledgements pause, in JSON
//
// A broker that was built with -tags broken leaves out the rules of replication that MILLRACE_BROKEN names (raft/broken,
// broker/replica/broken). Found out from outside so far, each in one run of a minute: AckBeforeFlush (-disks -faults "power of
// all"), TruncateByHighWatermark (-faults "kill all,kill in turn"), AnyEpoch (-network -faults pause,isolate,mute,deafen). Others
// were not (EarlyJoin, UncleanElection, ResumeOwnEpoch): their windows are narrow, and the simulation is for them (make controls).
//
// What this machine cannot do is left out and said. tools/crashtest does the same to a lone broker, more often and in
// less time.
package main
