package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/rpc"
	"os"
	"os/exec"
	"time"
)

// The roles of the processes that this program starts itself as, with the role as its only argument.
const (
	serverRole  = "server"
	clientsRole = "clients"
)

// child plays a role if the arguments name one. The parent's calls come through standard input and are
// answered through standard output; when the input ends, also because the parent was killed, so does the
// process.
func child(args []string) bool {
	if len(args) != 2 {
		return false
	}
	calls := rpc.NewServer()
	var err error
	switch args[1] {
	case serverRole:
		err = calls.Register(&Serving{})
	case clientsRole:
		err = calls.Register(&Swarming{})
	default:
		return false
	}
	if err != nil {
		log.Fatal(err)
	}
	calls.ServeConn(pipes{os.Stdin, os.Stdout})
	return true
}

type pipes struct {
	io.ReadCloser
	io.WriteCloser
}

func (p pipes) Close() error {
	p.WriteCloser.Close()
	return p.ReadCloser.Close()
}

// process is a child as its parent sees it.
type process struct {
	command *exec.Cmd
	calls   *rpc.Client
}

func startProcess(role string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	command := exec.Command(self, role)
	command.Stderr = os.Stderr
	in, err := command.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, err
	}
	return &process{command: command, calls: rpc.NewClient(pipes{out, in})}, nil
}

// stop ends the child, by force if it does not end within a few seconds.
func (p *process) stop() {
	p.calls.Close()
	timer := time.AfterFunc(5*time.Second, func() { p.command.Process.Kill() })
	defer timer.Stop()
	_ = p.command.Wait()
}

// call waits for the answer as long as ctx lasts.
func call[Answer any](ctx context.Context, p *process, method string, arguments any) (Answer, error) {
	var answer Answer
	pending := p.calls.Go(method, arguments, &answer, make(chan *rpc.Call, 1))
	select {
	case <-pending.Done:
		if pending.Error != nil {
			return answer, fmt.Errorf("%s: %w", method, pending.Error)
		}
		return answer, nil
	case <-ctx.Done():
		var none Answer // the call may still write to answer
		return none, fmt.Errorf("%s: %w", method, context.Cause(ctx))
	}
}

// exitOnError runs what serves for as long as the process lives.
func exitOnError(serve func() error) {
	if err := serve(); err != nil {
		log.Fatal("serving: ", err)
	}
}
