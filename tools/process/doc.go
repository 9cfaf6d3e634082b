// Package process runs a broker as a process of its own, through several lives: it is started, asked whether it
// serves, stopped, killed, started again. What it prints goes to one file. It dies with us.
package process
