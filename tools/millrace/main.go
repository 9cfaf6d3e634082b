// Millrace is a durable broker for Linux that speaks Kafka's protocol. This program is all of it: the
// server (standalone, the default), the load generator (bench), the daily tools (topic, group, config,
// produce, consume), the machine's check-up (doctor) and the data directory's (log).
//
// It only wires: flags become options, options become a broker or a client, errors become exit codes.
// The server's rules live in package broker, the load generator in tools/millrace/bench, the check-up in
// tools/millrace/doctor.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// Exit codes. A supervisor may rely on them.
const (
	exitOK    = 0
	exitError = 1 // it ran and failed; the reason is on stderr
	exitUsage = 2 // it was asked for something that does not exist, or (log) could not look
)

func main() {
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	// The first signal asks for an orderly end. The second one gets the kernel's answer: signal.Stop has
	// put the default action back by then, and a killed broker loses nothing that it has acknowledged.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	defer stop()

	root := newRootCommand()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	var usage *usageError
	if errors.As(err, &usage) {
		fmt.Fprintf(os.Stderr, "millrace: %v\nTry 'millrace --help'.\n", err)
		return exitUsage
	}
	if !errors.Is(err, errReported) {
		fmt.Fprintf(os.Stderr, "millrace: %v\n", err)
	}
	if cannot := new(cannotRun); errors.As(err, &cannot) {
		return exitUsage
	}
	return exitError
}

// errReported says that the reason of a failure has been shown already.
var errReported = errors.New("reported")

// usageError is a mistake on the command line, in a variable or in the configuration file.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}
