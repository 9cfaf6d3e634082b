// Package machine says what this computer has: cores, memory, disk, limits. Every answer is read from the
// kernel when it is asked for and respects the control group that the process is in.
package machine
