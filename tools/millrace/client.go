package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// clientOptions are what every command that talks to a broker needs.
type clientOptions struct {
	bootstrap []string
	timeout   seconds
}

const (
	defaultBootstrap     = "127.0.0.1:9092"
	defaultClientTimeout = 30 * time.Second
)

// register adds the flags to a command and to those below it.
func (o *clientOptions) register(cmd *cobra.Command) *clientOptions {
	o.timeout = seconds(defaultClientTimeout)
	fs := pflag.NewFlagSet("client", pflag.ContinueOnError)
	fs.StringSliceVarP(&o.bootstrap, "bootstrap-servers", "b", []string{defaultBootstrap}, "brokers to connect to first, host:port separated by commas")
	fs.Var(&o.timeout, "timeout", "how long an answer may take")
	cmd.PersistentFlags().AddFlagSet(withEnvironment(fs))
	return o
}

// connect opens a client and makes sure that a broker answers: a wrong address should say so at once
// instead of being tried again until the timeout.
func (o *clientOptions) connect(ctx context.Context, opts ...kgo.Opt) (*kgo.Client, error) {
	for i, b := range o.bootstrap {
		if !strings.Contains(b, ":") {
			o.bootstrap[i] = fmt.Sprintf("%s:%d", b, defaultKafkaPort)
		}
	}
	client, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(o.bootstrap...),
		kgo.ClientID("millrace"),
		kgo.DisableClientMetrics(),
		kgo.RetryTimeout(time.Duration(o.timeout)),
	}, opts...)...)
	if err != nil {
		return nil, &usageError{err}
	}
	pinging, cancel := o.within(ctx)
	defer cancel()
	if err := client.Ping(pinging); err != nil {
		client.Close()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("no broker answers at %s: %w", strings.Join(o.bootstrap, ", "), err)
	}
	return client, nil
}

// within bounds one request.
func (o *clientOptions) within(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, time.Duration(o.timeout))
}

// admin runs f with an admin client.
func (o *clientOptions) admin(ctx context.Context, f func(context.Context, *kadm.Client) error) error {
	return o.client(ctx, func(ctx context.Context, client *kgo.Client) error { return f(ctx, kadm.NewClient(client)) })
}

// client runs f with a client, within the timeout.
func (o *clientOptions) client(ctx context.Context, f func(context.Context, *kgo.Client) error) error {
	client, err := o.connect(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := o.within(ctx)
	defer cancel()
	err = f(ctx, client)
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("no answer within %v: %w", time.Duration(o.timeout), err)
	}
	return err
}
