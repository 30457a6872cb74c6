package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"evenkeel.io/controlplane/internal/admin"
)

// watchEvery is the period of --watch, that of the weights.
const watchEvery = 2 * time.Second

func newServicesCommand() *cobra.Command {
	var c client
	var watch bool
	cmd := &cobra.Command{
		Use:   "services [SERVICE]",
		Short: "services and how evenly their endpoints are loaded",
		Long: `services lists the Services with mode, strategy and imbalance: the CPU utilisation of the busiest
endpoint over the mean, 1 being even; and the part of the requests that Envoys refuse because all endpoints
together cannot do them. With a SERVICE it lists its endpoints: weight, share of the
requests, and what the last reading said of each.

A SERVICE is <namespace>/<name>:<port>; the port may be left out where there is only one.`,
		Example: `  controlplane services
  controlplane services shop/cart --watch
  controlplane services -o json | jq '.services[] | {name, imbalance}'`,
		Args:              rangeArgs(0, 1),
		ValidArgsFunction: c.completeServices(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if watch {
				return repeat(cmd, func() error { return services(cmd, &c, args) })
			}
			return services(cmd, &c, args)
		},
	}
	c.addFlags(cmd, true)
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "print anew every 2 s until interrupted")
	return cmd
}

func services(cmd *cobra.Command, c *client, args []string) error {
	if len(args) == 0 {
		return show(cmd, c, "/services", servicesTable)
	}
	name, err := c.serviceName(cmd.Context(), args[0])
	if err != nil {
		return err
	}
	return show(cmd, c, "/services/"+name, endpointsTable)
}

// follows says whose weights are shown, if they are another replica's.
func follows(out screen, view admin.ServicesView) {
	if view.Follows != "" {
		fmt.Fprintln(out, out.paint(faint, plain("The weights are those of replica "+view.Follows+", which this one follows.")))
	}
}

func servicesTable(out screen, view admin.ServicesView) error {
	follows(out, view)
	t := newTable("SERVICE", "MODE", "STRATEGY", ">ENDPOINTS", ">IMBALANCE", ">SHED", "POLICIES", "FLEETS", "HELD", "STRAINED")
	for _, s := range view.Services {
		shed := tableCell{text: "-"}
		if s.Shed > 0 {
			shed = tableCell{percent(&s.Shed), yellow}
		}
		t.add(text("%s", s.Name), state(s.Mode), text("%s", orDash(s.Strategy)), text("%d", s.Members), text("%s", decimal(2, s.Imbalance)), shed,
			text("%s", orDash(strings.Join(s.Policies, ","))), text("%s", orDash(strings.Join(s.Fleets, ","))), tableCell{s.Frozen, yellow}, tableCell{s.Strain, yellow})
	}
	return t.print(out, "There are no Services with ports.")
}

func endpointsTable(out screen, view admin.ServicesView) error {
	follows(out, view)
	for _, s := range view.Services {
		for _, note := range notes(s) {
			fmt.Fprintln(out, out.paint(yellow, plain(note)))
		}
		t := newTable("ENDPOINT", "ZONE", "STATE", ">WEIGHT", ">SHARE", ">REQ/S", ">CPU", ">P50", ">P90", ">IN FLIGHT", ">ERRORS", ">HEALTH", ">DECAY", ">AGE")
		for _, e := range s.Endpoints {
			weight := "equal"
			if e.Weight > 0 {
				weight = fmt.Sprint(e.Weight)
			}
			r, age := admin.ReadingView{}, tableCell{text: "-"}
			if e.Reading != nil {
				r, age = *e.Reading, text("%s", e.Reading.Age)
				if r.Stale {
					age.colour = yellow
				}
			}
			t.add(text("%s", e.Address), text("%s", orDash(e.Zone)), state(e.State), text("%s", weight), text("%s", percent(&e.Share)),
				text("%s", decimal(1, r.RPS)), text("%s", percent(r.CPU)), text("%s", dash(r.P50)), text("%s", dash(r.P90)),
				text("%s", decimal(0, r.InFlight)), text("%s", percent(r.ErrorRatio)),
				text("%.2f", e.HealthScore), text("%.2f", e.QPSDecayFactor), age)
		}
		if err := t.print(out, "No endpoint of "+s.Name+" may get traffic: Envoys answer 503 for it."); err != nil {
			return err
		}
	}
	return nil
}

// notes are what is out of the ordinary with a service.
func notes(s admin.ServiceView) (notes []string) {
	for _, note := range []struct{ what, why string }{
		{"The weights are held: ", s.Frozen},
		{"There is more load than weights can share out: ", s.Overload},
		{"Strained: ", s.Strain},
		{"Some requests get 503 from Envoys: ", s.Shedding},
	} {
		if note.why != "" {
			notes = append(notes, note.what+note.why)
		}
	}
	return notes
}

// serviceName completes a name without a port, where that leaves no doubt.
func (c *client) serviceName(ctx context.Context, name string) (string, error) {
	namespace, rest, ok := strings.Cut(name, "/")
	if !ok || namespace == "" || rest == "" || strings.Contains(rest, "/") {
		return "", usageError(fmt.Errorf("SERVICE %q: expected <namespace>/<name>:<port>", name))
	}
	if strings.Contains(rest, ":") {
		return name, nil
	}
	view, err := get[admin.ServicesView](ctx, c, "/services")
	if err != nil {
		return "", err
	}
	var found []string
	for _, s := range view.Services {
		if strings.HasPrefix(s.Name, name+":") {
			found = append(found, s.Name)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", refusedError(fmt.Errorf("there is no service %q; `controlplane services` lists them", name))
	}
	return "", refusedError(fmt.Errorf("%s has several ports; which of %s?", name, strings.Join(found, ", ")))
}

// repeat does it every watchEvery until the command is interrupted; on a terminal each time on a clean
// screen.
func repeat(cmd *cobra.Command, do func() error) error {
	out := screenOf(cmd.OutOrStdout())
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		if out.terminal {
			fmt.Fprint(out, "\x1b[H\x1b[2J")
		}
		if err := do(); err != nil {
			return err
		}
		select {
		case <-cmd.Context().Done():
			return nil
		case <-ticker.C:
		}
		if !out.terminal {
			fmt.Fprintln(out)
		}
	}
}
