package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"evenkeel.io/controlplane/internal/admin"
)

const (
	defaultAdmin = "http://127.0.0.1:19000"
	// maxAnswer bounds what is read of an answer; a snapshot of 10,000 endpoints takes some 10 MB.
	maxAnswer = 256 << 20
	// answerTimeout bounds one request.
	answerTimeout = 30 * time.Second
	// completionTimeout bounds what the shell waits for when it completes a name.
	completionTimeout = time.Second
)

// client asks a running control plane, as the flags of a command say, and shows the answer.
type client struct {
	admin  string
	output string
}

// addFlags declares --admin, and -o for commands whose answer has a form.
func (c *client) addFlags(cmd *cobra.Command, hasOutput bool) {
	cmd.Flags().StringVar(&c.admin, "admin", defaultAdmin, "address of the control plane's admin port")
	c.output = "table"
	if hasOutput {
		cmd.Flags().StringVarP(&c.output, "output", "o", "table", "table, json or yaml")
		must(cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp)))
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// show prints what path answers: as it is for json and yaml, else what table makes of it.
func show[T any](cmd *cobra.Command, c *client, path string, table func(screen, T) error) error {
	if !slices.Contains([]string{"table", "json", "yaml"}, c.output) {
		return usageError(fmt.Errorf("-o %q: expected table, json or yaml", c.output))
	}
	body, err := c.request(cmd.Context(), http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	out := screenOf(cmd.OutOrStdout())
	switch c.output {
	case "json":
		_, err := out.Write(body)
		return err
	case "yaml":
		text, err := yaml.JSONToYAML(body)
		if err != nil {
			return c.garbled(err)
		}
		_, err = out.Write(text)
		return err
	}
	view, err := decode[T](c, body)
	if err != nil {
		return err
	}
	return table(out, view)
}

// get decodes what path answers.
func get[T any](ctx context.Context, c *client, path string) (T, error) {
	body, err := c.request(ctx, http.MethodGet, path, nil)
	if err != nil {
		var none T
		return none, err
	}
	return decode[T](c, body)
}

func decode[T any](c *client, body []byte) (T, error) {
	var view T
	if err := json.Unmarshal(body, &view); err != nil {
		return view, c.garbled(err)
	}
	return view, nil
}

func (c *client) garbled(err error) error {
	return unreachableError(fmt.Errorf("what answers at %s is no control plane, or one of another version (%w); set --admin or EVENKEEL_ADMIN", c.admin, err))
}

// act posts an action and says what was done.
func (c *client) act(cmd *cobra.Command, path string, request any) error {
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	answer, err := c.request(cmd.Context(), http.MethodPost, path, body)
	if err != nil {
		return err
	}
	done, err := decode[admin.ActionView](c, answer)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), plain(done.Done))
	return err
}

// request asks the control plane. Its refusals are errors in its own words.
func (c *client) request(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	base, err := baseURL(c.admin)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, base+path, bytes.NewReader(body))
	if err != nil {
		return nil, usageError(fmt.Errorf("--admin %q: %w", c.admin, err))
	}
	request.Header.Set("Accept", "application/json")
	if method == http.MethodPost {
		request.Header.Set(admin.ActionHeader, "1")
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	if len(answer) > maxAnswer {
		return nil, unreachableError(fmt.Errorf("%s answered %s with more than %d MiB; ask for less", c.admin, path, maxAnswer>>20))
	}
	if response.StatusCode == http.StatusOK {
		return answer, nil
	}
	var refusal admin.ErrorView
	if json.Unmarshal(answer, &refusal) != nil || refusal.Error == "" {
		return nil, c.garbled(fmt.Errorf("it said %s", response.Status))
	}
	return nil, refusedError(errors.New(plain(refusal.Error)))
}

func (c *client) unreachable(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return context.Canceled
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	return unreachableError(fmt.Errorf("cannot reach the control plane at %s: is `controlplane serve` running? set --admin or EVENKEEL_ADMIN (%w)", c.admin, err))
}

// baseURL takes a URL, or host:port for short.
func baseURL(address string) (string, error) {
	full := address
	if !strings.Contains(full, "://") {
		full = "http://" + full
	}
	u, err := url.Parse(full)
	if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", usageError(fmt.Errorf("--admin %q: expected a URL like %s", address, defaultAdmin))
	}
	return u.Scheme + "://" + u.Host + strings.TrimSuffix(u.Path, "/"), nil
}

// completeServices completes the first argument with names of Services, the second (where there is
// one) with addresses of the first's endpoints. A control plane that does not answer completes nothing.
func (c *client) completeServices(most int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		var names []string
		switch services, err := c.quickly(cmd.Context()); {
		case err != nil || len(args) >= most:
		case len(args) == 0:
			for _, s := range services {
				names = append(names, s.Name)
			}
		default:
			for _, s := range services {
				if s.Name == args[0] {
					for _, e := range s.Endpoints {
						names = append(names, e.Address)
					}
				}
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeFleets completes the first argument with names of fleets.
func (c *client) completeFleets(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var names []string
	if len(args) == 0 {
		ctx, cancel := completionContext(cmd.Context())
		defer cancel()
		c.fromEnvironment()
		if view, err := get[admin.SnapshotsView](ctx, c, "/snapshots"); err == nil {
			for _, s := range view.Snapshots {
				if s.Generation > 0 || cmd.Name() == "snapshot" { // "rls" is no fleet
					names = append(names, s.Fleet)
				}
			}
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (c *client) quickly(ctx context.Context) ([]admin.ServiceView, error) {
	ctx, cancel := completionContext(ctx)
	defer cancel()
	c.fromEnvironment()
	view, err := get[admin.ServicesView](ctx, c, "/services")
	return view.Services, err
}

// fromEnvironment does for completion, which runs no command, what the root command does for others.
func (c *client) fromEnvironment() {
	if address, ok := os.LookupEnv("EVENKEEL_ADMIN"); ok && c.admin == defaultAdmin {
		c.admin = address
	}
}

func completionContext(ctx context.Context) (context.Context, context.CancelFunc) {
	if ctx == nil {
		ctx = context.Background()
	}
	return context.WithTimeout(ctx, completionTimeout)
}
