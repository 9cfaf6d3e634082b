package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"
)

// lineMax is the longest line that produce takes from its input.
const lineMax = 16 << 20

func newProduceCommand() *cobra.Command {
	var separator string
	var headers []string
	var partition int32
	var verbose bool
	o := new(clientOptions)
	cmd := &cobra.Command{
		Use: "produce TOPIC [RECORD...]", GroupID: groupClient, Short: "Write records: the arguments, or the lines of the input",
		Args: atLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts := []kgo.Opt{kgo.DefaultProduceTopic(args[0]), kgo.AllowAutoTopicCreation()}
			if partition >= 0 {
				opts = append(opts, kgo.RecordPartitioner(kgo.ManualPartitioner()))
			}
			parsed, err := parseHeaders(headers)
			if err != nil {
				return err
			}
			client, err := o.connect(cmd.Context(), opts...)
			if err != nil {
				return err
			}
			defer client.Close()
			out := &output{w: cmd.OutOrStdout(), verbose: verbose}
			lines := argumentLines(args[1:])
			if len(args) == 1 {
				lines = inputLines(cmd.InOrStdin())
			}
			err = lines(func(line string) {
				r := &kgo.Record{Value: []byte(line), Headers: parsed, Partition: max(partition, 0)}
				if separator != "" {
					if key, value, ok := strings.Cut(line, separator); ok {
						r.Key, r.Value = []byte(key), []byte(value)
					}
				}
				client.Produce(cmd.Context(), r, out.done)
			})
			flushing, cancel := o.within(cmd.Context())
			defer cancel()
			if flushErr := client.Flush(flushing); flushErr != nil {
				err = errors.Join(err, fmt.Errorf("not everything was acknowledged: %w", flushErr))
			}
			return errors.Join(err, out.result(cmd.ErrOrStderr()))
		},
	}
	o.register(cmd)
	cmd.Flags().StringVar(&separator, "key-separator", "", "what stands between key and value in a line")
	cmd.Flags().StringArrayVarP(&headers, "header", "H", nil, "header `key=value` of every record; may be repeated")
	cmd.Flags().Int32VarP(&partition, "partition", "p", -1, "partition (-1: by key, or spread)")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "print the partition and offset of every record")
	return cmd
}

func parseHeaders(texts []string) ([]kgo.RecordHeader, error) {
	var headers []kgo.RecordHeader
	for _, t := range texts {
		key, value, ok := strings.Cut(t, "=")
		if !ok {
			return nil, usagef("--header %s: write key=value", t)
		}
		headers = append(headers, kgo.RecordHeader{Key: key, Value: []byte(value)})
	}
	return headers, nil
}

func argumentLines(args []string) func(func(string)) error {
	return func(f func(string)) error {
		for _, a := range args {
			f(a)
		}
		return nil
	}
}

func inputLines(in io.Reader) func(func(string)) error {
	return func(f func(string)) error {
		s := bufio.NewScanner(in)
		s.Buffer(nil, lineMax)
		for s.Scan() {
			f(s.Text())
		}
		return s.Err()
	}
}

// output counts what became of the records. Its methods may be called from the client's goroutines.
type output struct {
	w       io.Writer
	verbose bool
	mu      sync.Mutex
	acked   int
	failed  int
	first   error
}

func (o *output) done(r *kgo.Record, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err != nil {
		if o.failed++; o.first == nil && !errors.Is(err, context.Canceled) {
			o.first = err
		}
		return
	}
	o.acked++
	if o.verbose {
		fmt.Fprintf(o.w, "%s\t%d\t%d\n", r.Topic, r.Partition, r.Offset)
	}
}

func (o *output) result(w io.Writer) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	fmt.Fprintf(w, "%d record(s) acknowledged\n", o.acked)
	if o.failed > 0 {
		return fmt.Errorf("%d record(s) failed: %w", o.failed, o.first)
	}
	return nil
}
