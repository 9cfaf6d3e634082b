package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"millrace/engine"
)

// newLogCommand looks at a data directory that no broker has open.
func newLogCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "log", GroupID: groupMachine, Short: "Print, check and repair the log of a stopped broker", RunE: needSubcommand,
		Long: `Print, check and repair what is in a data directory. The broker must be stopped. Only "repair --accept-loss"
writes anything. What the files hold is described in engine/FORMAT.md.`,
	}
	var dir string
	cmd.PersistentFlags().StringVar(&dir, "data-dir", defaultDataDir, "directory of the data")
	withEnvironment(cmd.PersistentFlags())
	cmd.AddCommand(newLogDump(&dir), newLogCheck(&dir), newLogRepair(&dir))
	return cmd
}

func newLogDump(dir *string) *cobra.Command {
	o := engine.DumpOptions{Partition: -1}
	cmd := &cobra.Command{
		Use: "dump", Short: "Print checkpoint, segments and write-ahead log", Args: noArgs,
		Long: `Print what is in the data directory: identity, checkpoints with the state of each log, segments, write-ahead log files. With
--topic also the batches of its segments, with --records every record, with --wal every commit of the write-ahead log.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return logError(engine.Dump(cmd.OutOrStdout(), nil, *dir, o))
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.Topic, "topic", "", "only this topic, with its batches")
	f.Int32Var(&o.Partition, "partition", -1, "only this partition (-1: all)")
	f.Int64Var(&o.From, "from", 0, "leave out what is below this `offset`")
	f.BoolVar(&o.Records, "records", false, "print keys and values of the records")
	f.BoolVar(&o.WAL, "wal", false, "print the commits of the write-ahead log")
	f.BoolVar(&o.JSON, "json", false, "print JSON, one object a line")
	return cmd
}

func newLogCheck(dir *string) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "check", Short: "Verify every checksum and invariant", Args: noArgs,
		Long: `Read everything in the data directory and verify every checksum and invariant. Each broken one is printed with
file and position. What a crash leaves and the next start tidies up is printed as a note.

It exits with 0 if nothing is broken, 1 if something is, 2 if it could not look.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := engine.Check(nil, *dir)
			if err != nil {
				return logError(err)
			}
			if asJSON {
				err = writeJSON(cmd.OutOrStdout(), r)
			} else {
				err = writeCheck(cmd.OutOrStdout(), r)
			}
			if err == nil && len(r.Problems) > 0 {
				return errReported
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func writeCheck(w io.Writer, r *engine.CheckReport) error {
	for _, n := range r.Notes {
		fmt.Fprintf(w, "note: %v\n", n)
	}
	for _, p := range r.Problems {
		fmt.Fprintf(w, "broken: %v\n", p)
	}
	for i := range r.Logs {
		if l := &r.Logs[i]; l.Damaged() {
			fmt.Fprintf(w, "%s can be proved up to offset %d\n", l.Name(), l.End)
		}
	}
	_, err := fmt.Fprintf(w, "%d logs, %d segments with %d batches, %d WAL files with %d commits, %d MiB read: ", len(r.Logs), r.Segments, r.Batches, r.WALFiles, r.Commits, r.Bytes>>20)
	if err != nil {
		return err
	}
	if len(r.Problems) == 0 {
		_, err = fmt.Fprintln(w, "nothing is broken")
	} else {
		_, err = fmt.Fprintf(w, "%d problems; see 'millrace log repair'\n", len(r.Problems))
	}
	return err
}

func newLogRepair(dir *string) *cobra.Command {
	var accept, asJSON bool
	cmd := &cobra.Command{
		Use: "repair", Short: "Bring a damaged directory back to service, without what is lost", Args: noArgs,
		Long: `Bring a damaged directory back to service: each damaged log ends at the last offset that can be proved, and what
cannot be used is moved to the folder set-aside of the data directory. Without --accept-loss nothing is
changed, and it only says what would be done. It can be interrupted and run again.

This is for logs that have no other replica. A log that has one loses nothing if this node's copy is deleted instead.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := engine.Repair(cmd.Context(), engine.Options{Dir: *dir, Warn: func(format string, args ...any) {
				fmt.Fprintf(cmd.ErrOrStderr(), format+"\n", args...)
			}}, accept)
			if r == nil {
				return logError(err)
			}
			var werr error
			if asJSON {
				werr = writeJSON(cmd.OutOrStdout(), r)
			} else {
				werr = writeRepair(cmd.OutOrStdout(), r, accept)
			}
			if err == nil {
				err = werr
			}
			if err == nil && !accept && len(r.Before.Problems) > 0 {
				return errReported
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&accept, "accept-loss", false, "do it: what cannot be proved is lost")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func writeRepair(w io.Writer, r *engine.RepairReport, accept bool) error {
	if len(r.Before.Problems) == 0 {
		_, err := fmt.Fprintln(w, "nothing is broken")
		return err
	}
	for _, p := range r.Before.Problems {
		fmt.Fprintf(w, "broken: %v\n", p)
	}
	for _, a := range r.Actions {
		if accept {
			fmt.Fprintf(w, "done: %s\n", a)
		} else {
			fmt.Fprintf(w, "would %s\n", a)
		}
	}
	for _, l := range r.Lost {
		fmt.Fprintf(w, "lost: %v\n", l)
	}
	if len(r.Lost) == 0 {
		fmt.Fprintln(w, "no records are lost")
	}
	var err error
	switch {
	case !accept:
		_, err = fmt.Fprintln(w, "nothing was changed: run it with --accept-loss to do this")
	case r.After != nil && len(r.After.Problems) == 0:
		_, err = fmt.Fprintln(w, "repaired: the directory passes the check")
		if err == nil && r.SetAside != "" {
			_, err = fmt.Fprintf(w, "what was taken out of use is in %s\n", r.SetAside)
		}
	}
	return err
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// logError turns "could not look" into its exit code.
func logError(err error) error {
	if errors.Is(err, engine.ErrInUse) {
		return &cannotRun{fmt.Errorf("%w: stop the broker first", err)}
	}
	if err != nil {
		return &cannotRun{err}
	}
	return nil
}

// cannotRun is an error that says nothing about what was to be looked at: exit code 2.
type cannotRun struct{ err error }

func (e *cannotRun) Error() string { return e.err.Error() }
func (e *cannotRun) Unwrap() error { return e.err }
