package main

import (
	"fmt"
	"io"
	"math"
	"runtime"
	"strings"
)

// outcome is one server in one scenario.
type outcome struct {
	server string
	values values // nil: see err
	err    error
}

const preamble = `# Delivery: from a change to every stream

    %s

Delta ADS over loopback, on a machine of %d CPUs. Server and clients are processes of their own, fresh ones for every
server and scenario; CPU time is the server's process alone, user and system, from a push until it is at rest again.
Figures are medians of %d pushes, after one that does not count. The clients subscribe as an Envoy does (all clusters,
then their endpoints by name, with a node of %d bytes), acknowledge every response, have %d stream(s) per connection
(%s), and look into responses no further than to see what has arrived.

`

const notes = `
To encode, once, is what is done with the changed load assignments before they are delivered: ours validates and encodes
them, the floor encodes its response, stock and linear encode per stream while they deliver. CPU is that of the delivery
alone but where it says otherwise, and in field, which has both. A push gives all endpoints of a changed cluster other
weights. The time of an acknowledgement is when the client hands it to its transport.
`

// printHead says what all figures that follow have in common.
func (b *bench) printHead(out io.Writer, command string, used []kind) {
	transport := "plaintext"
	if b.certificates != nil {
		transport = "mutual TLS 1.3"
	}
	fmt.Fprintf(out, preamble, command, runtime.NumCPU(), b.pushes, b.nodeBytes, b.perConnection, transport)
	for _, k := range used {
		fmt.Fprintf(out, "- **%s**: %s\n", k.name, k.what)
	}
	fmt.Fprint(out, notes)
}

func (s scenario) print(out io.Writer, outcomes []outcome) {
	fmt.Fprintf(out, "\n## %s\n\n%s%s: %d clusters of %d endpoints, %d streams.\n\n", s.name, strings.ToUpper(s.what[:1]), s.what[1:],
		s.shape.Clusters, s.shape.Endpoints, s.streams)
	fmt.Fprint(out, "| server |")
	for _, c := range s.columns {
		fmt.Fprintf(out, " %s |", c.head)
	}
	fmt.Fprintf(out, "\n|---|%s\n", strings.Repeat("---:|", len(s.columns)))
	measured := map[string]values{}
	var failures []string
	for _, o := range outcomes {
		fmt.Fprintf(out, "| %s |", o.server)
		for _, c := range s.columns {
			if v, ok := o.values[c.key]; ok {
				fmt.Fprintf(out, " "+c.format+" |", v)
			} else {
				fmt.Fprint(out, " - |")
			}
		}
		fmt.Fprintln(out)
		if o.err != nil {
			failures = append(failures, fmt.Sprintf("%s was not measured: %v.", o.server, o.err))
			continue
		}
		measured[o.server] = o.values
	}
	if len(failures) > 0 {
		fmt.Fprintf(out, "\n%s\n", strings.Join(failures, " "))
	}
	fmt.Fprint(out, "\n| target | want | is | met |\n|---|---:|---:|---|\n")
	for _, t := range s.targets {
		fmt.Fprintln(out, t.row(measured))
	}
}

func (t target) row(of map[string]values) string {
	sign := "<="
	if t.atLeast {
		sign = ">="
	}
	want := sign + " " + fmt.Sprintf(t.format, t.limit)
	value := t.value(of)
	if math.IsNaN(value) {
		return fmt.Sprintf("| %s | %s | - | not measured |", t.what, want)
	}
	met := "no"
	if t.met(value) {
		met = "yes"
	}
	return fmt.Sprintf("| %s | %s | %s | %s |", t.what, want, fmt.Sprintf(t.format, value), met)
}
