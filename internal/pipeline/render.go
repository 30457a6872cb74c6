package pipeline

import (
	"time"

	"evenkeel.io/controlplane/internal/lastgood"
	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/source"
)

// Render is what the fleets of a Store would be served at a first start, by fleet name. Of the options
// it uses Catalog, Translate and Log.
func Render(store *source.Store, options Options) map[string]*snapshot.Snapshot {
	c := newCore(options, newMetrics(nil), lastgood.State{})
	c.rebuild(time.Time{}, source.Update{Store: store})
	out := map[string]*snapshot.Snapshot{}
	for name, f := range c.fleets {
		out[name] = f.served
	}
	return out
}
