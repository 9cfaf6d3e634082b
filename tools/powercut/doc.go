// Package powercut cuts the power of a real filesystem under a real program, on
// one machine and without special hardware.
//
//	the workload (a broker, or a test)     O_DIRECT, io_uring, fdatasync: all real
//	   |
//	ext4                                   mounted at Disk.Path
//	   |
//	loop device                            announces a write-back cache, turns barriers into FSYNC
//	   |
//	one file on FUSE, served by us         a volatile cache in memory: writes wait there for FSYNC
//	   |
//	disk.img                               the platter: what survives
//
// Disk.Cut is the power cut: each sector block that was written since the last
// FSYNC is kept, lost or torn, at random, and from then on every access fails with
// EIO. Disk.Stop takes the mounts away, Disk.Start brings the platter back. Run
// does all of it around a Workload, round after round, on one filesystem.
//
// # Contract
//
// What the workload saw flushed before the cut is on the platter. Nothing that
// comes after the cut is, and the workload gets errors: it must not acknowledge
// anything. So whatever its ledger holds when it has stopped must be found by Check.
//
// # Needs
//
// Root, /dev/fuse, loop devices, mkfs.ext4. Available says what is missing; tests
// skip with its words. A process that is killed leaves its mounts behind: unmount
// the folder's mnt and fuse by hand.
package powercut
