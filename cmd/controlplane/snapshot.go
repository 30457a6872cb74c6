package main

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"evenkeel.io/controlplane/internal/admin"
	"evenkeel.io/controlplane/internal/translate"
)

func newSnapshotCommand() *cobra.Command {
	var c client
	var kind, name string
	var to clientKind
	cmd := &cobra.Command{
		Use:   "snapshot [FLEET]",
		Short: "what fleets are served now",
		Long: `snapshot lists the fleets and what each is served. With a FLEET (<namespace>/<gateway>) it lists the
resources, each with the object it comes from; with --type it prints their content as YAML. The FLEET rls
is what reference rate limit services are served: the limits of all fleets.`,
		Example: `  controlplane snapshot
  controlplane snapshot shop/edge
  controlplane snapshot shop/edge --type eds --name shop/cart:8080`,
		Args:              rangeArgs(0, 1),
		ValidArgsFunction: c.completeFleets,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) == 0 && (kind != "" || name != "" || to != envoyClient):
				return usageError(fmt.Errorf("--type, --name and --client need a FLEET; see %s --help", cmd.CommandPath()))
			case kind == "" && name != "":
				return usageError(fmt.Errorf("--name needs --type, one of %s", typeNames()))
			case kind != "" && !slices.Contains(translate.Types, translate.Type(kind)):
				return usageError(fmt.Errorf("--type %q: expected one of %s", kind, typeNames()))
			case len(args) == 0:
				return show(cmd, &c, "/snapshots", snapshotsTable)
			}
			path, err := snapshotPath(args[0])
			if err != nil {
				return err
			}
			query := url.Values{}
			if to != envoyClient {
				query.Set("client", string(to))
			}
			if kind == "" {
				return show(cmd, &c, path+"?"+query.Encode(), snapshotTable)
			}
			if name != "" {
				query.Set("name", name)
			}
			return show(cmd, &c, path+"/"+kind+"?"+query.Encode(), resourcesYAML)
		},
	}
	c.addFlags(cmd, true)
	cmd.Flags().StringVar(&kind, "type", "", "print the resources of this type: "+typeNames())
	cmd.Flags().StringVar(&name, "name", "", "only the resource of this name")
	to.addFlag(cmd)
	must(cmd.RegisterFlagCompletionFunc("type", completeTypes))
	return cmd
}

// snapshotPath is the admin path of a fleet's snapshot, or of that of reference rate limit services.
func snapshotPath(fleet string) (string, error) {
	if fleet == translate.RLSFleet {
		return admin.SnapshotPath(fleet), nil
	}
	if err := checkFleet(fleet); err != nil {
		return "", err
	}
	namespace, gateway, _ := strings.Cut(fleet, "/")
	return admin.SnapshotPath(url.PathEscape(namespace) + "/" + url.PathEscape(gateway)), nil
}

// checkFleet says what is wrong with the name of a fleet.
func checkFleet(fleet string) error {
	namespace, gateway, ok := strings.Cut(fleet, "/")
	if !ok || namespace == "" || gateway == "" || strings.Contains(gateway, "/") {
		return usageError(fmt.Errorf("FLEET %q: expected <namespace>/<gateway>", fleet))
	}
	return nil
}

func snapshotsTable(out screen, view admin.SnapshotsView) error {
	headings := []string{"FLEET", ">GENERATION", "PINNED"}
	types := admin.ServedTypes(view.Snapshots)
	for _, t := range types {
		headings = append(headings, ">"+strings.ToUpper(t))
	}
	t := newTable(headings...)
	for _, s := range view.Snapshots {
		row := []tableCell{text("%s", s.Fleet), text("-"), text("-")}
		if s.Generation > 0 {
			row[1] = text("%d", s.Generation)
		}
		if s.Pin != nil {
			row[2] = tableCell{"by " + s.Pin.By, yellow}
		}
		for _, name := range types {
			n := 0
			for _, of := range s.Types {
				if of.Type == name {
					n = of.Count
				}
			}
			row = append(row, text("%d", n))
		}
		t.add(row...)
	}
	return t.print(out, "Nothing is served: there is no fleet. A fleet is a Gateway of a GatewayClass with controllerName evenkeel.io/controlplane.")
}

func snapshotTable(out screen, view admin.SnapshotsView) error {
	t := newTable("TYPE", "RESOURCE", "FROM", ">BYTES", "VERSION")
	for _, s := range view.Snapshots {
		for _, of := range s.Types {
			for _, r := range of.Resources {
				t.add(text("%s", of.Type), text("%s", r.Name), text("%s", orDash(r.Source)), text("%d", r.Bytes), text("%s", short(r.Version)))
			}
		}
	}
	return t.print(out, "Nothing is served: the Gateway has no listener that was accepted, or it is gone; or there are no limits.")
}

func resourcesYAML(out screen, view admin.ResourcesView) error {
	for _, r := range view.Resources {
		content, err := yaml.JSONToYAML(r.Content)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(out, "---\n# %s %s, version %s, from %s\n%s", view.Type, plain(r.Name), r.Version, plain(orDash(r.Source)), content); err != nil {
			return err
		}
	}
	if len(view.Resources) == 0 {
		fmt.Fprintf(out, "%s is served no %s.\n", view.Fleet, view.Type)
	}
	return nil
}
