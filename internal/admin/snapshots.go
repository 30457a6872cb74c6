package admin

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/translate"
)

// pinView is nil for a fleet that is not pinned.
func (m moment) pinView(fleet string) *PinView {
	p := m.model.Pin(fleet)
	if p == nil {
		return nil
	}
	return &PinView{
		Generation: p.Number, At: timestamp(p.At), By: p.By, Objects: slices.Clip(append([]string{}, p.Objects...)), AllObjects: p.AllObjects, Held: p.Held, Gone: p.Gone,
	}
}

func (m moment) snapshots(*http.Request) (any, error) {
	view := SnapshotsView{Snapshots: []SnapshotView{}}
	for _, fleet := range m.model.Fleets() {
		if snap, generation, ok := m.model.Snapshot(fleet); ok {
			view.Snapshots = append(view.Snapshots, m.snapshotView(fleet, generation, snap, false))
		}
	}
	if snap, _, ok := m.model.Snapshot(translate.RLSFleet); ok {
		view.Snapshots = append(view.Snapshots, m.snapshotView(translate.RLSFleet, 0, snap, false))
	}
	return view, nil
}

func (m moment) snapshot(r *http.Request) (any, error) {
	fleet, snap, generation, err := m.snapshotOf(r)
	if err != nil {
		return nil, err
	}
	view := m.snapshotView(fleet, generation, snap, true)
	view.Client = clientOf(r)
	return SnapshotsView{Snapshots: []SnapshotView{view}}, nil
}

func (m moment) resources(r *http.Request) (any, error) {
	fleet, snap, _, err := m.snapshotOf(r)
	if err != nil {
		return nil, err
	}
	t := translate.Type(r.PathValue("type"))
	if !slices.Contains(translate.Types, t) {
		return nil, notFound("there is no resource type %q; there is %s", t, strings.Join(typesInOrder(), ", "))
	}
	all := snap.Resources(t)
	view := ResourcesView{Fleet: fleet, Client: clientOf(r), Type: string(t), Version: snap.Version(t), Resources: []ResourceView{}}
	name := r.URL.Query().Get("name")
	for _, resource := range sorted(all) {
		if name != "" && resource.Name != name {
			continue
		}
		rv := resourceView(resource)
		if rv.Content, err = content(resource); err != nil {
			return nil, err
		}
		view.Resources = append(view.Resources, rv)
	}
	if name != "" && len(view.Resources) == 0 {
		return nil, notFound("%s has no %s resource %q; /snapshots/%s lists those it has", fleet, t, name, pathOf(fleet))
	}
	return view, nil
}

// clientOf is the kind of client that is asked for, "" for Envoys.
func clientOf(r *http.Request) string { return r.URL.Query().Get("client") }

// snapshotOf is what the fleet in the path is served, its Envoys or, with ?client=grpc, its gRPC clients.
func (m moment) snapshotOf(r *http.Request) (fleet string, snap *snapshot.Snapshot, generation uint64, err error) {
	fleet = r.PathValue("namespace") + "/" + r.PathValue("gateway")
	if fleet == pathOf(translate.RLSFleet) {
		fleet = translate.RLSFleet
	}
	snap, generation, ok := m.model.Snapshot(fleet)
	if !ok && fleet == translate.RLSFleet {
		return "", nil, 0, notFound("reference rate limit services are served nothing: serve was started without --rls-service, or the fleets are not known yet")
	}
	if !ok {
		return "", nil, 0, m.noFleet(fleet)
	}
	switch client := clientOf(r); client {
	case "":
	case "grpc":
		snap = snap.ForGRPC(nil) // who is served what is not valid is told in the log
	default:
		return "", nil, 0, badRequest("client=%q: expected grpc, or nothing for Envoys", client)
	}
	return fleet, snap, generation, nil
}

// SnapshotPath is where the snapshot of a fleet is, or that of reference rate limit services, "rls".
func SnapshotPath(fleet string) string { return "/snapshots/" + pathOf(fleet) }

// pathOf is a fleet in a path. What is in no namespace is behind a dash, which no namespace is called.
func pathOf(fleet string) string {
	if fleet == translate.RLSFleet {
		return "-/" + fleet
	}
	return fleet
}

func (m moment) noFleet(fleet string) error {
	fleets := m.model.Fleets()
	if len(fleets) == 0 {
		return notFound("there is no fleet %q, nor any other: a fleet is a Gateway of a GatewayClass with controllerName evenkeel.io/controlplane, and /status says what is wrong with one", fleet)
	}
	return notFound("there is no fleet %q; there is %s", fleet, strings.Join(fleets[:min(len(fleets), 20)], ", "))
}

func (m moment) snapshotView(fleet string, generation uint64, snap *snapshot.Snapshot, resources bool) SnapshotView {
	view := SnapshotView{Fleet: fleet, Generation: generation, Pin: m.pinView(fleet), Types: []SnapshotTypeView{}}
	for _, t := range translate.Types {
		all := snap.Resources(t)
		if len(all) == 0 {
			continue
		}
		tv := SnapshotTypeView{Type: string(t), Version: snap.Version(t), Count: len(all)}
		if resources {
			for _, r := range sorted(all) {
				tv.Resources = append(tv.Resources, resourceView(r))
			}
		}
		view.Types = append(view.Types, tv)
	}
	return view
}

func resourceView(r *snapshot.Resource) ResourceView {
	view := ResourceView{Name: r.Name, Version: r.Version, Source: r.Source, Bytes: len(r.Bytes)}
	for t, names := range r.Refs {
		if view.Refs == nil {
			view.Refs = map[string][]string{}
		}
		view.Refs[string(t)] = names
	}
	return view
}

// content is the resource as protojson.
func content(r *snapshot.Resource) (json.RawMessage, error) {
	return r.JSON()
}

func sorted(all map[string]*snapshot.Resource) []*snapshot.Resource {
	list := make([]*snapshot.Resource, 0, len(all))
	for _, r := range all {
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b *snapshot.Resource) int { return cmp.Compare(a.Name, b.Name) })
	return list
}
