package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

func newConsumeCommand() *cobra.Command {
	var c consumer
	o := new(clientOptions)
	cmd := &cobra.Command{
		Use: "consume TOPIC...", GroupID: groupClient, Short: "Read records and print them", Args: atLeast(1),
		Long: `Read records and print their values, one a line.

--format prints other things: %t topic, %p partition, %o offset, %k key, %v value, %T timestamp (ms), %h headers,
%n newline, \t tab, %% a percent sign. --format json prints an object a line.`,
		RunE: func(cmd *cobra.Command, topics []string) error {
			c.topics = topics
			return c.run(cmd.Context(), o, cmd.OutOrStdout())
		},
	}
	o.register(cmd)
	cmd.Flags().StringVarP(&c.from, "from", "o", "end", "where to start: start, end, an offset, -N before the end, a time or an age")
	cmd.Flags().BoolVar(&c.fromBeginning, "from-beginning", false, "the same as --from start")
	cmd.Flags().Int64VarP(&c.count, "max", "n", 0, "stop after so many records (0: never)")
	cmd.Flags().BoolVarP(&c.exitAtEnd, "exit-at-end", "e", false, "stop at the end that the topic has now")
	cmd.Flags().StringVarP(&c.group, "group", "g", "", "read as a member of this consumer group and commit")
	cmd.Flags().Int32VarP(&c.partition, "partition", "p", -1, "only this partition")
	cmd.Flags().StringVarP(&c.format, "format", "f", "%v%n", "what to print of a record, or json")
	cmd.Flags().BoolVar(&c.committed, "read-committed", false, "leave out what open and aborted transactions wrote")
	return cmd
}

// consumer is one run of consume.
type consumer struct {
	topics        []string
	from          string
	fromBeginning bool
	count         int64
	exitAtEnd     bool
	group         string
	partition     int32
	format        string
	committed     bool
}

func (c *consumer) run(ctx context.Context, o *clientOptions, w io.Writer) error {
	if c.fromBeginning {
		c.from = "start"
	}
	if c.group != "" && c.partition >= 0 {
		return usagef("a group decides about partitions itself: leave --partition out")
	}
	opts, ends, err := c.plan(ctx, o)
	if err != nil {
		return err
	}
	if c.exitAtEnd && len(ends) == 0 {
		return nil
	}
	client, err := o.connect(ctx, opts...)
	if err != nil {
		return err
	}
	defer client.Close()
	out := bufio.NewWriter(w)
	printed := int64(0)
	for ctx.Err() == nil {
		fetches := client.PollFetches(ctx)
		if fetches.IsClientClosed() {
			break
		}
		var failed error
		fetches.EachError(func(topic string, p int32, err error) {
			if !errors.Is(err, context.Canceled) {
				failed = errors.Join(failed, fmt.Errorf("%s:%d: %w", topic, p, err))
			}
		})
		if failed != nil {
			return errors.Join(failed, out.Flush())
		}
		for iter := fetches.RecordIter(); !iter.Done() && (c.count == 0 || printed < c.count); {
			r := iter.Next()
			at := place{r.Topic, r.Partition}
			end, bounded := ends[at]
			if c.exitAtEnd && (!bounded || r.Offset >= end) {
				continue // it came after the end, or its partition is done
			}
			if err := c.print(out, r); err != nil {
				return err
			}
			client.MarkCommitRecords(r)
			printed++
			if bounded && r.Offset == end-1 {
				delete(ends, at)
			}
		}
		if err := out.Flush(); err != nil {
			return err
		}
		if c.count > 0 && printed >= c.count || c.exitAtEnd && len(ends) == 0 {
			break
		}
	}
	if c.group != "" {
		committing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Duration(o.timeout))
		defer cancel()
		if err := client.CommitMarkedOffsets(committing); err != nil {
			return fmt.Errorf("commit: %w", err)
		}
	}
	return nil
}

type place struct {
	topic     string
	partition int32
}

// plan finds where to start and, when the end matters, where the topic ends now.
func (c *consumer) plan(ctx context.Context, o *clientOptions) (opts []kgo.Opt, ends map[place]int64, err error) {
	ends = map[place]int64{}
	target, err := parseReset(c.from, time.Now())
	if err != nil {
		return nil, nil, usagef("--from %s: use start, end, an offset, -N, a time like 2026-01-31T12:00:00Z or an age like 15m", c.from)
	}
	opts = []kgo.Opt{kgo.FetchMaxWait(time.Second)}
	if c.committed {
		opts = append(opts, kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	}
	if c.group != "" {
		start := kgo.NewOffset().AtEnd()
		if c.from == "start" || c.from == "earliest" {
			start = kgo.NewOffset().AtStart()
		}
		opts = append(opts, kgo.ConsumerGroup(c.group), kgo.ConsumeTopics(c.topics...), kgo.ConsumeResetOffset(start), kgo.AutoCommitMarks())
		if !c.exitAtEnd {
			return opts, ends, nil
		}
	}
	err = o.admin(ctx, func(ctx context.Context, admin *kadm.Client) error {
		starts, err := admin.ListStartOffsets(ctx, c.topics...)
		if err != nil {
			return err
		}
		last, err := admin.ListEndOffsets(ctx, c.topics...)
		if err != nil {
			return err
		}
		var byTime kadm.ListedOffsets
		if !target.time.IsZero() {
			if byTime, err = admin.ListOffsetsAfterMilli(ctx, target.time.UnixMilli(), c.topics...); err != nil {
				return err
			}
		}
		var committed kadm.OffsetResponses
		if c.group != "" {
			if committed, err = admin.FetchOffsets(ctx, c.group); err != nil {
				return fmt.Errorf("%s: %w", c.group, err)
			}
		}
		from := map[string]map[int32]kgo.Offset{}
		for _, topic := range c.topics {
			if len(last[topic]) == 0 {
				return fmt.Errorf("%s: no such topic", topic)
			}
			from[topic] = map[int32]kgo.Offset{}
			for p, end := range last[topic] {
				start := starts[topic][p]
				if err := errors.Join(start.Err, end.Err); err != nil {
					return fmt.Errorf("%s:%d: %w", topic, p, err)
				}
				if c.partition >= 0 && p != c.partition {
					continue
				}
				at := target.offset(start.Offset, end.Offset, end.Offset)
				if !target.time.IsZero() {
					at = byTime[topic][p].Offset
				}
				if was, ok := committed.Lookup(topic, p); ok && was.At >= 0 {
					at = was.At
				}
				at = min(max(at, start.Offset), end.Offset)
				from[topic][p] = kgo.NewOffset().At(at)
				if end.Offset > at {
					ends[place{topic, p}] = end.Offset
				}
			}
			if len(from[topic]) == 0 {
				return fmt.Errorf("%s has no partition %d", topic, c.partition)
			}
		}
		if c.group == "" {
			opts = append(opts, kgo.ConsumePartitions(from))
		}
		return nil
	})
	return opts, ends, err
}

// print writes one record in the wanted format.
func (c *consumer) print(w *bufio.Writer, r *kgo.Record) error {
	if c.format == "json" {
		headers := map[string]string{}
		for _, h := range r.Headers {
			headers[h.Key] = string(h.Value)
		}
		line, err := json.Marshal(map[string]any{
			"topic": r.Topic, "partition": r.Partition, "offset": r.Offset, "timestamp": r.Timestamp.UnixMilli(),
			"key": textOrNull(r.Key), "value": textOrNull(r.Value), "headers": headers,
		})
		if err != nil {
			return err
		}
		line = append(line, '\n')
		_, err = w.Write(line)
		return err
	}
	for i := 0; i < len(c.format); i++ {
		if pair := c.format[i:min(i+2, len(c.format))]; len(pair) == 2 {
			if text, ok := formatField(pair, r); ok {
				if _, err := w.WriteString(text); err != nil {
					return err
				}
				i++
				continue
			}
		}
		if err := w.WriteByte(c.format[i]); err != nil {
			return err
		}
	}
	return nil
}

func formatField(pair string, r *kgo.Record) (string, bool) {
	switch pair {
	case "%t":
		return r.Topic, true
	case "%p":
		return strconv.Itoa(int(r.Partition)), true
	case "%o":
		return strconv.FormatInt(r.Offset, 10), true
	case "%k":
		return string(r.Key), true
	case "%v":
		return string(r.Value), true
	case "%T":
		return strconv.FormatInt(r.Timestamp.UnixMilli(), 10), true
	case "%h":
		var all []string
		for _, h := range r.Headers {
			all = append(all, h.Key+"="+string(h.Value))
		}
		return strings.Join(all, ","), true
	case "%n", `\n`:
		return "\n", true
	case `\t`:
		return "\t", true
	case "%%":
		return "%", true
	}
	return "", false
}

func textOrNull(b []byte) any {
	if b == nil {
		return nil
	}
	return string(b)
}
