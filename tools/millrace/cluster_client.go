package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"millrace/broker"
	"millrace/tools/millrace/admin"
)

// clusterClient asks the admin address of any node of a cluster.
type clusterClient struct {
	addrs   []string
	timeout seconds
	// for waiting
	interval seconds
	noWait   bool
	asJSON   bool
}

const (
	defaultAdminPort = "9644"
	// clusterAnswerMax bounds what is read of an answer.
	clusterAnswerMax = 64 << 20
)

func (c *clusterClient) register(cmd *cobra.Command) *clusterClient {
	c.timeout, c.interval = seconds(defaultClientTimeout), seconds(time.Second)
	fs := pflag.NewFlagSet("admin", pflag.ContinueOnError)
	fs.StringSliceVar(&c.addrs, "admin-addr", []string{defaultAdminAddr}, "admin addresses of nodes, separated by commas; the first one that answers is asked (node N of a local cluster: 9643+N)")
	fs.Var(&c.timeout, "timeout", "how long an answer may take, and how long answers may fail to come while waiting")
	cmd.PersistentFlags().AddFlagSet(withEnvironment(fs))
	return c
}

// waiting adds the flags of commands that start something and wait for its end.
func (c *clusterClient) waiting(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&c.noWait, "no-wait", false, "only start it")
	cmd.Flags().Var(&c.interval, "interval", "time between two looks at how far it is")
	c.json(cmd)
}

func (c *clusterClient) json(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&c.asJSON, "json", false, "print JSON")
}

func (c *clusterClient) status(ctx context.Context) (broker.ClusterStatus, error) {
	var s broker.ClusterStatus
	err := c.do(ctx, http.MethodGet, "", nil, &s)
	return s, err
}

// post asks for a change; answer may be nil.
func (c *clusterClient) post(ctx context.Context, what string, body, answer any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	return c.do(ctx, http.MethodPost, "/"+what, b, answer)
}

// do asks the first address that accepts a connection: until then nothing can have happened.
func (c *clusterClient) do(ctx context.Context, method, path string, body []byte, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(c.timeout))
	defer cancel()
	var all []error
	for _, addr := range c.addrs {
		addr, err := adminAddress(addr)
		if err != nil {
			return err
		}
		err = ask(ctx, method, "http://"+addr+"/cluster"+path, body, answer)
		var dial *net.OpError
		if !errors.As(err, &dial) || dial.Op != "dial" {
			if errors.Is(err, context.DeadlineExceeded) {
				return fmt.Errorf("%s: no answer within %v: %w", addr, time.Duration(c.timeout), err)
			}
			return err
		}
		if errors.Is(err, syscall.ECONNREFUSED) {
			err = errors.New("nothing listens there")
		}
		all = append(all, fmt.Errorf("no node answers at %s: %w (--admin-addr; node N of a local cluster: %d+N)", addr, err, adminPortBase))
	}
	if len(all) == 0 {
		return usagef("--admin-addr is empty")
	}
	return errors.Join(all...)
}

// adminAddress reads an address as the server's own flag has it.
func adminAddress(text string) (string, error) {
	addr := strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(text), "http://"), "/")
	if addr == "off" || addr == "" || strings.Contains(addr, "/") {
		return "", usagef("--admin-addr %q: write host:port", text)
	}
	if _, _, err := net.SplitHostPort(addr); err != nil {
		addr = net.JoinHostPort(strings.Trim(addr, "[]"), defaultAdminPort)
	}
	return addr, nil
}

// refusal is a node's answer in words.
type refusal struct {
	code int
	text string
}

func (r *refusal) Error() string { return r.text }

func ask(ctx context.Context, method, url string, body []byte, answer any) error {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return &usageError{err}
	}
	if method == http.MethodPost {
		req.Header.Set(admin.HeaderGuard, "1")
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // what matters was read
	text, err := io.ReadAll(io.LimitReader(resp.Body, clusterAnswerMax))
	if err != nil {
		return err
	}
	if resp.StatusCode >= http.StatusBadRequest {
		var e admin.ErrorAnswer
		if json.Unmarshal(text, &e) != nil || e.Error == "" {
			e.Error = fmt.Sprintf("%s: %s", resp.Status, bytes.TrimSpace(text))
		}
		return &refusal{resp.StatusCode, e.Error}
	}
	if answer == nil || resp.StatusCode == http.StatusNoContent {
		return nil
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return fmt.Errorf("answer of %s: %w", url, err)
	}
	return nil
}
